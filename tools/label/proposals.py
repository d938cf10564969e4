"""Proposals for the frames of a clip: boxes of several networks, merged and numbered."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import msgspec
import numpy as np

from benchmarks.truth.labels import Edges, corners, group
from framegate.models.boxes import iou
from framegate.models.picture import as_picture, to_bgr
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.file import FileSource
from tools.label.networks import Answer, Frame, Proposer

N_FRAMES: Final = 60
SURE: Final = 0.35  # score from which one network is enough for a proposal
AGREED: Final = 0.15  # score from which AGREEING networks are enough
AGREEING: Final = 3
_SAME: Final = 0.5  # IoU of boxes of two networks that are one object
_STAYED: Final = 0.6  # IoU from which a proposal takes the number of the frame before
FILE: Final = "proposals.json"


class Proposal(msgspec.Struct, frozen=True):
    """A box to judge. networks: names of the networks that have it."""

    number: int
    label: str
    box: Edges
    score: float
    networks: tuple[str, ...]


class FrameProposals(msgspec.Struct, frozen=True):
    """The proposals of a frame, by number. `frame` is seq: decoded frames, counted from 0."""

    frame: int
    proposals: tuple[Proposal, ...]


class ClipProposals(msgspec.Struct, frozen=True):
    """The proposals of a clip. classes: classes to label; no other class is proposed."""

    clip: str
    sha256: str
    width: int
    height: int
    clip_frames: int
    classes: tuple[str, ...]
    networks: tuple[str, ...]
    frames: tuple[FrameProposals, ...]

    def second_pass(self) -> tuple[int, ...]:
        """Return the frames of the second pass: every fifth, from the third on."""
        return tuple(frame.frame for frame in self.frames[2::5])


def read(folder: Path) -> ClipProposals:
    """Read the proposals of a clip's folder. Raises OSError and msgspec.DecodeError."""
    return msgspec.json.decode((folder / FILE).read_bytes(), type=ClipProposals)


def clip_entry(data: Path, clip: str) -> dict[str, Any]:
    """Return the manifest's entry of a clip. Raises ValueError for an unknown clip."""
    items: list[dict[str, Any]] = json.loads((data / "MANIFEST.json").read_text(encoding="utf-8"))[
        "items"
    ]
    clips = {item["name"]: item for item in items if str(item["file"]).startswith("clips/")}
    if clip not in clips:
        raise ValueError(f"no clip {clip!r} in {data}/MANIFEST.json; it has {', '.join(clips)}")
    return clips[clip]


def chosen_frames(clip_frames: int, wanted: int = N_FRAMES) -> list[int]:
    """Return the middle frame of each of `wanted` equal parts of a clip, or all frames."""
    if clip_frames <= wanted:
        return list(range(clip_frames))
    return [(2 * part + 1) * clip_frames // (2 * wanted) for part in range(wanted)]


def propose(
    data: Path, clip: str, folder: Path, classes: Sequence[str], proposers: Sequence[Proposer]
) -> ClipProposals:
    """Write proposals and pictures of a clip's frames into `folder`, and return the proposals.

    Raises ValueError if the clip is unknown or is not the file of the manifest.
    """
    entry = clip_entry(data, clip)
    path = data / entry["file"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path} has another sha256 than {data}/MANIFEST.json")
    clip_frames = sum(1 for _ in decoded_frames(path, set()))
    wanted = chosen_frames(clip_frames)
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    frames: list[FrameProposals] = []
    size = (0, 0)
    for number, frame in decoded_frames(path, set(wanted)):
        if frame is None:
            continue
        size = frame.picture.width, frame.picture.height
        cv2.imwrite(str(frame_picture(folder, number)), frame.bgr)
        before: tuple[Proposal, ...] = ()
        if frames:
            before = frames[-1].proposals
        candidates = merged([proposer.ask(frame) for proposer in proposers], classes, size)
        names = [proposer.name for proposer in proposers]
        frames.append(FrameProposals(number, numbered(candidates, before, names)))
    names = [proposer.name for proposer in proposers]
    proposals = ClipProposals(
        clip, entry["sha256"], *size, clip_frames, tuple(classes), tuple(names), tuple(frames)
    )
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(proposals), indent=1))
    return proposals


def frame_picture(folder: Path, frame: int) -> Path:
    """Return the path of the picture of a frame."""
    return folder / "frames" / f"{frame:06d}.png"


def decoded_frames(path: Path, wanted: set[int]) -> Iterator[tuple[int, Frame | None]]:
    """Yield every frame as the pipeline decodes it: its number, and the wanted frames."""
    source = FileSource(Request(str(path)))
    try:
        for number, frame in enumerate(source.frames()):
            if number not in wanted:
                yield number, None
                continue
            buffer = memoryview(bytearray(frame.nbytes))
            frame.write(buffer)
            picture = as_picture(buffer, frame.form)
            yield number, Frame(picture, to_bgr(picture, (picture.width, picture.height)))
    finally:
        source.close()


# -- Boxes of several networks become one list.


@dataclass(slots=True)
class Candidate:
    """An object as several networks see it.

    best   network -> its highest score
    votes  class -> sum of the scores
    edges  the box of each network, with its score
    """

    best: dict[int, float]
    votes: dict[str, float]
    edges: list[tuple[float, Edges]]

    @property
    def box(self) -> Edges:
        """Return the mean box, weighted by score."""
        weights = [weight for weight, _ in self.edges]
        mean = np.average([edges for _, edges in self.edges], axis=0, weights=weights)
        left, top, right, bottom = (round(float(edge), 1) for edge in mean)
        return left, top, right, bottom

    @property
    def label(self) -> str:
        """Return the class with most votes; `vehicle` only if no network names it."""
        named = {label: votes for label, votes in self.votes.items() if label != "vehicle"}
        votes = named or self.votes
        return max(votes, key=lambda label: votes[label])

    @property
    def is_likely(self) -> bool:
        """Return whether the object is worth a look."""
        scores = sorted(self.best.values(), reverse=True)
        is_agreed = len(scores) >= AGREEING and scores[AGREEING - 1] >= AGREED
        return scores[0] >= SURE or is_agreed


def merged(
    answers: Sequence[Answer], classes: Sequence[str], size: tuple[int, int]
) -> list[Candidate]:
    """Return the objects that a network is sure of or several networks have, best first.

    size  width and height of the picture, in which the boxes are cut
    """
    rows: list[tuple[float, int, str, Edges]] = []
    for network, (boxes, scores, labels) in enumerate(answers):
        cut = np.clip(boxes, 0, [*size, *size])
        for box, score, label in zip(cut.tolist(), scores.tolist(), labels, strict=True):
            if label in classes and box[0] < box[2] and box[1] < box[3]:
                rows.append((score, network, label, (box[0], box[1], box[2], box[3])))
    rows.sort(key=lambda row: -row[0])
    candidates: list[Candidate] = []
    for score, network, label, edges in rows:
        home = _home(candidates, label, edges)
        if home is None:
            candidates.append(Candidate({network: score}, {label: score}, [(score, edges)]))
            continue
        if network not in home.best:
            home.best[network] = score
            home.edges.append((score, edges))
        home.votes[label] = home.votes.get(label, 0.0) + score
    likely = [candidate for candidate in candidates if candidate.is_likely]
    return sorted(likely, key=lambda candidate: -max(candidate.best.values()))


def _home(candidates: Sequence[Candidate], label: str, edges: Edges) -> Candidate | None:
    """Return the first candidate of the label's group whose best box has this object."""
    for candidate in candidates:
        is_same_group = group(next(iter(candidate.votes))) == group(label)
        first = candidate.edges[0][1]
        if is_same_group and iou(corners([first]), corners([edges]))[0, 0] >= _SAME:
            return candidate
    return None


def numbered(
    candidates: Sequence[Candidate], before: Sequence[Proposal], names: Sequence[str]
) -> tuple[Proposal, ...]:
    """Return candidates as proposals, by number.

    An object that stays in place keeps its number from frame to frame. Others take the lowest free
    numbers, from 1.
    """
    numbers: list[int] = []
    for candidate in candidates:
        number = _number_before(candidate, before)
        if number in numbers:
            number = 0
        numbers.append(number)
    unused = (number for number in itertools.count(1) if number not in numbers)
    proposals = []
    for candidate, number in zip(candidates, numbers, strict=True):
        score = round(max(candidate.best.values()), 2)
        networks = tuple(names[network] for network in sorted(candidate.best))
        proposals.append(
            Proposal(number or next(unused), candidate.label, candidate.box, score, networks)
        )
    return tuple(sorted(proposals, key=lambda proposal: proposal.number))


def _number_before(candidate: Candidate, before: Sequence[Proposal]) -> int:
    """Return the number of the proposal that this object had in the frame before, or 0."""
    best, number = _STAYED, 0
    for proposal in before:
        overlap = float(iou(corners([proposal.box]), corners([candidate.box]))[0, 0])
        is_same_group = group(proposal.label) == group(candidate.label)
        if is_same_group and overlap >= best:
            best, number = overlap, proposal.number
    return number

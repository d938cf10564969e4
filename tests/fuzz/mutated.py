"""Inputs near to sound ones: what strangers send is mostly that, damaged or bent."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

WORDS = (b"", b"\0", b"\xff" * 9, b"\x80" * 11, b"PK\x03\x04", b"{}", b"[", b"\xc1", b"\x91" * 99)

numbers = (
    st.integers(-(2**63), 2**63) | st.sampled_from([-1, 0, 1, 10**9, 10**25, 10**400]) | st.floats()
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(), max_size=20) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def data_like(*sound: bytes) -> st.SearchStrategy[bytes]:
    """One of these with some places overwritten, cut out or longer; now and then any bytes."""
    edit = st.tuples(
        st.floats(0, 1), st.integers(0, 40), st.binary(max_size=12) | st.sampled_from(WORDS)
    )

    def edited(one: bytes, edits: Sequence[tuple[float, int, bytes]], keep: float) -> bytes:
        for place, gone, new in edits:
            at = int(place * len(one))
            one = one[:at] + new + one[at + gone :]
        return one[: max(1, round(keep * len(one)))]

    kept = st.just(1.0) | st.floats(0, 1)
    near = st.builds(edited, st.sampled_from(sound), st.lists(edit, max_size=4), kept)
    return near | st.binary(max_size=200)


@st.composite
def tables_like(draw: st.DrawFn, sound: dict[str, Any]) -> Any:
    """This table with some values, at any depth, replaced, taken away or added."""
    table = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        at: Any = table
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from([*keys, "else"])) if keys else "else"
            inner = at[key] if key != "else" else None
            if isinstance(inner, dict | list) and draw(st.booleans()):
                at = inner
                continue
            break
        if key != "else" and draw(st.integers(0, 4)) == 0:
            del at[key]
        elif isinstance(at, dict):
            at[draw(st.text(max_size=6)) if key == "else" else key] = draw(json_values)
        elif key == "else":
            at.append(draw(json_values))
        else:
            at[key] = draw(json_values)
    return table

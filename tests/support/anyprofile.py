"""Profiles of any content, for tests with hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from profiles import profile, stat

from gotrace.common.vocabulary import FrameKind, State
from gotrace.profile.types import Frame

frames = st.builds(
    Frame, st.text(max_size=20), st.text(max_size=8), st.integers(0, 9999), st.sampled_from(FrameKind), st.booleans()
)
stacks = st.builds(
    stat,
    st.lists(frames, max_size=8),
    st.lists(st.integers(0, 2**45), min_size=1, max_size=12),
    st.sampled_from(State),
    st.text(max_size=12),
    st.integers(1, 50),
    st.integers(0, 3),
    st.sampled_from([4242, 4300]),
)
any_profile = st.builds(profile, st.lists(stacks, max_size=8))

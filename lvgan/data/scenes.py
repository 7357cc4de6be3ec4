"""Where one shot of a video ends and the next begins: cuts, fades and dissolves, found while it is decoded.

A rule of our own over three known measures; `lvgan bench cuts` holds it against ffmpeg's and PySceneDetect's:

- *cut*: the change between two frames that motion does not explain (block matching on a picture of 32x32,
  brightness and contrast divided out) stands out from its neighbourhood, as in PySceneDetect's adaptive
  detector, and the picture does not come back: after a flash or a bird before the lens it does.
- *fade*: the contrast runs down to nothing, or up from it. Nothing that lasts (two seconds, or from the first
  frame to the last) is a shot of its own, whose use others judge.
- *dissolve*: every frame between two that differ is a mixture of these two, with shares that rise steadily.
  Neither a moving camera nor a passing object does that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

DELAY = 80
MARGIN = 2
THRESHOLD = 0.4  # of the change that motion does not explain; chosen on `lvgan bench cuts`

_SIDE = 32  # of the picture that is looked at
_BLOCK = 8
_REACH = 3  # pixels of motion between two frames, of _SIDE
_BLOCKS = (_SIDE // _BLOCK) ** 2
_COUNTED = 11  # blocks, those that change least: a caption or an object is not a new scene
_KEPT = 96  # frames that are remembered
_AHEAD = 13  # frames seen before a decision
_BACK = 12  # a picture that comes back within so many frames was never left
_AROUND = 8  # neighbours on either side that a cut is compared with
_ADDEND = 8.0  # of 255, to the contrast
_PEAK = 2.5  # how far a cut stands out from them
_BLANK = 3.0  # standard deviation of the luma (of 255) of a picture that shows nothing
_DROPOUT = 4  # so many blank frames between equal pictures are a fault, no fade
_HARD = 0.6  # a first or last frame with so much of the shot's contrast has not been faded
_LONGEST = 36  # frames that a fade is followed back
_PART = 30  # a longer fade is reported in parts of so many frames
_SHOT = 60  # a longer blank run is a shot of its own, and no part of a fade
_LENGTHS = np.arange(6, 42, 2)  # of dissolves
_FAR = 60.0  # mean squared difference (of 255) of the ends of a dissolve that can be judged
_STEADY = 0.12  # how far the shares of a mixture may lie from an even rise
_REST = 0.14  # of the change, what a mixture may leave unexplained
_REST_CALM = 0.025  # the same on the calmest blocks
_CALM = 12  # of 16
_SETTLED = 4  # frames after a transition within which it may still turn out to be longer
_CONTEXT = 12  # frames on either side that a dissolve is compared with


@dataclass(frozen=True, order=True)
class Cut:
    """A transition between two shots: frames ``start <= n < end`` belong to neither.

    A hard cut has ``start == end``, the number of the first frame of the new shot; a fade or a dissolve its
    extent. `kind` is ``"cut"``, ``"fade"`` or ``"dissolve"``.
    """

    start: int
    end: int
    kind: str = "cut"


def pieces(frames: int, cuts: Iterable[Cut], margin: int = MARGIN) -> list[tuple[int, int]]:
    """The shots of a video of so many frames, ``(start, end)`` with the end not included, in order.

    `margin` frames are left out on both sides of every cut (a scaler or a codec smears the last frame of a
    shot into the first of the next), none at the ends of the video. Cuts may come in any order and overlap.
    """
    found, begin = [], 0
    for cut in sorted(cuts):
        found.append((begin, cut.start - margin))
        begin = max(begin, cut.end + margin)
    found.append((begin, frames))
    return [(start, min(end, frames)) for start, end in found if start < min(end, frames)]


class SceneFinder:
    """Finds the transitions of one video, fed with its frames in order.

        finder = SceneFinder()
        for frame in frames:  # uint8 [h, w, 3], all of one size; small ones do
            cuts += finder.push(frame)
        cuts += finder.finish()
        pieces(count, cuts)

    Cuts come in ascending order. Once `n` frames were pushed, every transition that starts before
    ``n - delay`` has been reported; one that lasts longer (a very slow fade) comes in parts that follow on
    each other. Memory does not grow with the video.

    Args:
        threshold: how much of the picture must change, beyond what motion explains, above 0 (about 1 for two
            pictures that have nothing in common); None takes :data:`THRESHOLD`. More finds fewer.

    Raises:
        ValueError: a threshold that is not above 0.
    """

    delay = DELAY

    def __init__(self, threshold: float | None = None) -> None:
        if threshold is not None and not threshold > 0:
            raise ValueError(f"threshold is {threshold}, expected a number above 0")
        self._threshold = THRESHOLD if threshold is None else threshold
        self._looks = np.zeros((_KEPT, 3, _SIDE, _SIDE), np.float32)
        self._coarse = np.zeros((_KEPT, _BLOCKS, 3 * (_BLOCK // 2) ** 2), np.float32)
        self._apart = np.empty_like(self._coarse)
        self._far = np.zeros((_KEPT, _KEPT, _BLOCKS), np.float32)  # mean squared differences of _coarse
        self._far_whole = np.zeros((_KEPT, _KEPT), np.float32)  # the same of the whole picture
        self._contrast = np.zeros(_KEPT, np.float32)
        self._change = np.zeros(_KEPT, np.float32)  # from the frame before
        self._count = 0
        self._decided = 0
        self._fade: int | None = None  # start of the part of a fade that is going on
        self._rising = False
        self._blank = 0  # where the blank frames of that fade began, or the blank shot
        self._in_blank = False  # within a blank shot
        self._pending: list[_Event] = []
        self._reported = 0  # end of the last cut that was handed out

    def push(self, frame: NDArray[np.uint8]) -> list[Cut]:  # [h, w, 3]
        """Take the next frame; the cuts that are certain now."""
        self._remember(frame)
        if self._count - 1 - self._decided >= _AHEAD:
            self._decide(self._decided)
            self._decided += 1
        return self._certain(self._decided - _SETTLED)

    def finish(self) -> list[Cut]:
        """After the last frame: the cuts that are left."""
        while self._decided < self._count:
            self._decide(self._decided)
            self._decided += 1
        if self._fade is not None and (self._blank or self._rising):  # otherwise all of it is blank
            self._end_fade(self._count)
        return self._certain(self._count + 1)

    # --- measures ---------------------------------------------------------------------------------

    def _remember(self, frame: NDArray[np.uint8]) -> None:
        slot = self._count % _KEPT
        small = Image.fromarray(frame).convert("YCbCr").resize((_SIDE, _SIDE), Image.Resampling.BOX)
        planes = np.asarray(small, np.float32).transpose(2, 0, 1)
        luma, chroma = planes[0], planes[1:]
        self._contrast[slot] = contrast = luma.std()
        # Divided by the contrast: neither exposure nor a cloud before the sun is a change. The addend
        # keeps the noise of dark pictures small.
        look = self._looks[slot]
        look[0] = (luma - luma.mean()) / (contrast + _ADDEND)
        look[1:] = (chroma - 128) * 0.7 / (contrast + _ADDEND)
        count, side = _SIDE // _BLOCK, _BLOCK // 2
        halves = planes.reshape(3, count, side, 2, count, side, 2).mean(axis=(3, 6))
        self._coarse[slot] = halves.transpose(1, 3, 0, 2, 4).reshape(_BLOCKS, -1)
        apart = np.subtract(self._coarse, self._coarse[slot], out=self._apart)
        self._far[slot] = self._far[:, slot] = np.einsum("kbp,kbp->kb", apart, apart) / apart.shape[2]
        self._far_whole[slot] = self._far_whole[:, slot] = self._far[slot].mean(axis=1)
        self._change[slot] = self._difference(self._count - 1, self._count) if self._count else 0
        self._count += 1

    def _difference(self, a: int, b: int) -> float:
        """What differs between two frames beyond motion: about 0 within a shot, 1 between strangers."""
        return _difference(self._looks[a % _KEPT], self._looks[b % _KEPT])

    def _structure(self, a: int, b: int) -> float:
        """The same without the tint of the frames: a sunset is no new shot."""
        one, other = (look - look.mean(axis=(1, 2), keepdims=True) for look in self._looks[[a % _KEPT, b % _KEPT]])
        return _difference(one, other)

    def _distance(self, a: NDArray[np.int64] | int, b: NDArray[np.int64] | int) -> Floats:  # [..., _BLOCKS]
        return np.asarray(self._far[np.asarray(a) % _KEPT, np.asarray(b) % _KEPT])

    def _contrast_at(self, n: int) -> float:
        return float(self._contrast[n % _KEPT])

    # --- decisions --------------------------------------------------------------------------------

    def _decide(self, n: int) -> None:
        """Frame n, of which the next :data:`_AHEAD` are known (fewer at the end)."""
        if self._in_blank and self._contrast_at(n) >= _BLANK:
            self._in_blank, self._fade, self._blank, self._rising = False, n, n, False
        if self._fade is not None:
            self._go_on_fading(n)
        elif self._in_blank:
            pass
        elif self._contrast_at(n) < _BLANK:
            if n == 0 or self._contrast_at(n - 1) >= _BLANK:
                self._begin_fade(n)
        elif n and self._is_cut(n):
            self._add(_Event(n, n, "cut"))
        self._find_dissolve(n)

    def _is_cut(self, n: int) -> bool:
        change = float(self._change[n % _KEPT])
        if change < self._threshold:
            return False
        around = [i for i in range(n - _AROUND, n + _AROUND + 1) if i != n and 1 <= i < self._count]
        if not around:
            return False
        # Three may be cuts themselves: blended frames, a short shot.
        calm = sorted(float(self._change[i % _KEPT]) for i in around)[: max(1, len(around) - 3)]
        if change < _PEAK * (calm[-1] + 0.05):
            return False
        return not self._is_lit_otherwise(n) and not self._comes_back(n, change)

    def _comes_back(self, n: int, change: float) -> bool:
        pairs = [(n - 1, n + k) for k in range(1, _BACK + 1) if n + k < self._count]
        pairs += [(n - 1 - k, n) for k in range(1, _BACK + 1) if n - 1 - k >= 0]
        same = max(0.5 * change, min(0.75 * change, self._threshold))
        return any(self._difference(a, b) < same for a, b in pairs)

    def _is_lit_otherwise(self, n: int) -> bool:
        """Whether frame n, but for a part of it, is the one before, darker or brighter: a caption at night."""
        one, other = (_blocks(self._looks[i % _KEPT, :1])[0] for i in (n - 1, n))  # [_BLOCKS, pixels]
        calm = np.argsort(np.abs(one - other).mean(axis=1))[:_COUNTED]
        a, b = one[calm] - one[calm].mean(), other[calm] - other[calm].mean()
        return bool((a * b).sum() > 0.95 * np.sqrt((a * a).sum() * (b * b).sum()))

    def _begin_fade(self, n: int) -> None:
        """Frame n is the first that shows nothing."""
        start = n
        while start > max(0, n - _LONGEST) and self._falls(start - 1, -1):
            start -= 1
        if n and self._contrast_at(n - 1) > _HARD * self._contrast_at(max(start - 1, 0)):
            start = n  # a cut to blank, not a fade
        end = n
        while end < self._count and self._contrast_at(end) < _BLANK:
            end += 1
        if n and end < self._count and n - start <= 2 and end - n <= _DROPOUT:
            after = min(end + 2, self._count - 1)
            slow = self._contrast_at(end) < _HARD * self._contrast_at(after)
            if not slow and self._difference(max(start - 1, 0), end) < 1.4 * self._threshold:
                return
        self._fade, self._blank, self._rising = start, n, False

    def _go_on_fading(self, n: int) -> None:
        assert self._fade is not None
        if self._contrast_at(n) < _BLANK:
            if self._rising:
                self._blank, self._rising = n, False
            if n - self._blank >= _SHOT:
                self._end_fade(self._blank)
                self._in_blank = True
                return
        else:
            later = min(n + 4, self._count - 1)
            hard = not self._rising and self._contrast_at(n) > _HARD * self._contrast_at(later)
            self._rising = True
            if hard or not self._falls(n, 1):
                self._end_fade(n)
                return
        known = n if self._rising else self._blank  # whether what is blank belongs to the fade, time will show
        if n - self._fade >= _PART and known > self._fade:
            self._add(_Event(self._fade, known, "fade"))
            self._fade = known

    def _end_fade(self, end: int) -> None:
        """The fade that is going on, or what is left of it, ends at a frame: at its own start, it was a cut."""
        assert self._fade is not None
        if end > self._fade:
            self._add(_Event(self._fade, end, "fade"))
        elif self._fade not in (0, self._reported):
            self._add(_Event(end, end, "cut"))
        self._fade = None

    def _falls(self, n: int, towards: int) -> bool:
        """Whether the contrast grows from frame n into a direction, seen over three frames."""
        here = self._contrast_at(n)
        beyond = [self._contrast_at(i) for i in (n + towards * k for k in (1, 2, 3)) if 0 <= i < self._count]
        return bool(beyond) and max(beyond) > here * 1.015 + 0.25

    def _find_dissolve(self, end: int) -> None:
        """Dissolves of which frame `end` is the first of the new shot alone."""
        lengths = _LENGTHS[end - _LENGTHS >= 4]  # without something before and after it cannot be judged
        if end + 4 >= self._count:
            return
        starts, near = end - lengths, np.minimum(lengths, _CONTEXT)
        whole = self._far_whole
        last = (end + np.minimum(near, self._count - 1 - end)) % _KEPT
        across = whole[starts % _KEPT, end % _KEPT]
        before = whole[np.maximum(starts - near, 0) % _KEPT, starts % _KEPT]
        after = whole[end % _KEPT, last]
        likely = (across > _FAR) & (np.maximum(before, after) < 0.35 * across)
        middle = (starts + lengths // 2) % _KEPT
        half = (whole[starts % _KEPT, middle] - whole[end % _KEPT, middle]) / (2 * np.maximum(across, _FAR))
        likely &= np.abs(half) < _STEADY  # quickly, what _is_mixture finds at every frame
        for start, weight in zip(starts[likely], across[likely], strict=True):
            if self._is_mixture(int(start), end):
                self._add(_Event(int(start) + 1, end, "dissolve", float(weight)))

    def _is_mixture(self, start: int, end: int) -> bool:
        between = np.arange(start, end + 1)
        first, last, whole = start % _KEPT, end % _KEPT, self._far_whole[between % _KEPT]  # [T, _KEPT]
        share = (whole[:, first] + whole[-1, first] - whole[:, last]) / (2 * whole[-1, first])  # least squares
        if np.abs(share - np.arange(len(between)) / (end - start)).max() > _STEADY:
            return False
        across = self._distance(start, end)  # [_BLOCKS]
        rest = self._distance(between, start) - share[:, None] ** 2 * across  # [T, _BLOCKS]
        if rest.mean(axis=1).max() > _REST * across.mean():
            return False
        # Somebody may walk through the picture meanwhile; the other blocks must fit the better.
        calm = np.argsort(rest.max(axis=0))[:_CALM]
        far = across[calm].mean()
        if far < _FAR or rest[:, calm].mean(axis=1).max() > _REST_CALM * far:
            return False
        return self._structure(start, end) > 1.2 * self._threshold

    # --- what was found ---------------------------------------------------------------------------

    def _add(self, event: _Event) -> None:
        """Put it to what is pending; what overlaps becomes one."""
        clashing = [p for p in self._pending if p.start <= event.end + 1 and event.start <= p.end + 1]
        kept = [p for p in self._pending if p not in clashing]
        for other in clashing:
            event = event.merged(other)
        self._pending = sorted([*kept, event], key=lambda e: e.start)

    def _certain(self, before: int) -> list[Cut]:
        """Hand out what ends before a frame, for nothing that is found later reaches back to it."""
        found = []
        while self._pending and self._pending[0].end < before:
            event = self._pending.pop(0)
            start = max(event.start, self._reported)
            self._reported = max(event.end, start)
            found.append(Cut(start, self._reported, event.kind))
        return found


@dataclass(frozen=True)
class _Event:
    start: int
    end: int
    kind: str
    weight: float = 0.0  # of a dissolve: how different its ends are

    def merged(self, other: _Event) -> _Event:
        if self.kind == other.kind == "dissolve":  # two guesses at the same one
            return max(self, other, key=lambda e: (e.weight, e.start - e.end))
        kinds = {self.kind, other.kind}
        kind = next(k for k in ("fade", "dissolve", "cut") if k in kinds)
        if kinds == {"fade", "dissolve"}:  # half a fade is a mixture with black
            return self if self.kind == "fade" else other
        return _Event(min(self.start, other.start), max(self.end, other.end), kind, max(self.weight, other.weight))


def _difference(one: Floats, other: Floats) -> float:  # both [3, _SIDE, _SIDE]
    still = _least(np.abs(one - other).sum(axis=0)[None])
    if still < 0.1:
        return still
    edge = ((0, 0), (_REACH, _REACH), (_REACH, _REACH))
    moved = np.lib.stride_tricks.sliding_window_view(np.pad(one, edge, "edge"), (_SIDE, _SIDE), axis=(1, 2))
    return _least(np.abs(moved - other[:, None, None]).sum(axis=0).reshape(-1, _SIDE, _SIDE))


def _blocks(pictures: Floats) -> Floats:  # [N, _SIDE, _SIDE] -> [N, _BLOCKS, _BLOCK**2]
    count = _SIDE // _BLOCK
    parts = pictures.reshape(-1, count, _BLOCK, count, _BLOCK).transpose(0, 1, 3, 2, 4)
    return parts.reshape(-1, count**2, _BLOCK**2)


def _least(differences: Floats) -> float:  # [shifts, _SIDE, _SIDE]
    """Mean over the blocks that changed least, each under the shift that suits it best."""
    count = _SIDE // _BLOCK
    blocks = differences.reshape(-1, count, _BLOCK, count, _BLOCK).mean(axis=(2, 4)).min(axis=0)
    return float(np.sort(blocks, axis=None)[:_COUNTED].mean())

"""lvgan: endless, non-repeating video of one kind of scene, learnt from footage of it.

The system of "Generating Long Videos of Dynamic Scenes" (Brooks et al., NeurIPS 2022,
arXiv 2206.03429), written anew. `lvgan --help` lists the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lvgan.version import __version__

if TYPE_CHECKING:
    from lvgan.generate.video import Video, load

__all__ = ["Video", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # torch is loaded when it is needed, so that `lvgan --help` answers at once.
    if name in ("Video", "load"):
        from lvgan.generate import video

        return getattr(video, name)
    raise AttributeError(f"module 'lvgan' has no attribute {name!r}")

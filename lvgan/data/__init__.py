"""Footage in, training clips out; frames in, video files out. Knows no model.

:mod:`~lvgan.data.video` (ffmpeg), :mod:`~lvgan.data.cuts` (lists of intervals),
:mod:`~lvgan.data.pictures` (folders of frames), :mod:`~lvgan.data.scenes` (cuts that are found),
:mod:`~lvgan.data.shards` (the stored format), :mod:`~lvgan.data.prepare` (footage to shards: planned in
:mod:`~lvgan.data.plan`, made in units by :mod:`~lvgan.data.convert`, shared out by :mod:`~lvgan.data.workers`),
:mod:`~lvgan.data.dataset` (shards to clips), :mod:`~lvgan.data.cache` (their frames decoded once),
:mod:`~lvgan.data.windows` (training clips for a data loader).
"""

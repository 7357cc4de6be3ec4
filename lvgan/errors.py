"""What can go wrong, as a user sees it.

::

    LvganError              the command line prints it as one sentence and exits with 2
    ├── ConfigError         a setting that is unknown, impossible or contradictory
    ├── DataError           footage, shards or folders that cannot be used
    │   └── MediaError      one media file that ffmpeg cannot read or write
    ├── CheckpointError     a checkpoint that is damaged, foreign or of the wrong kind
    │   └── DamagedCheckpointError      cut short, or a part of it lacks its checksum
    ├── TrainingError       training that went wrong and cannot mend itself
    └── MachineError        the machine lacks something: disk, device, ffmpeg

Every message says what was found, what was expected and what to do. Anything else that
escapes is a defect of lvgan, keeps its traceback and exits with 1.
"""

from __future__ import annotations


class LvganError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(LvganError):
    """A setting that is unknown, impossible or contradictory."""


class DataError(LvganError):
    """Footage, shards or folders that cannot be used."""


class MediaError(DataError):
    """One media file that ffmpeg cannot read or write."""


class CheckpointError(LvganError):
    """A checkpoint that is damaged, foreign or of the wrong kind."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is cut short or does not have its checksums."""


class TrainingError(LvganError):
    """Training that went wrong and cannot mend itself."""


class MachineError(LvganError):
    """The machine lacks something that the job needs: disk, device, ffmpeg."""

"""On the PYTHONPATH of a process, plays a file system without locks: `FAKE_FLOCK` is the errno that it answers."""

import fcntl
import os

if number := int(os.environ.get("FAKE_FLOCK", "0")):

    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    fcntl.flock = refuse

"""On the PYTHONPATH of a process, plays a file system without locks: `FAKE_FLOCK` is the errno that it answers, or -1
where it grants locks to everybody, as one does whose locks hold on each machine alone.
"""

import fcntl
import os

if number := int(os.environ.get("FAKE_FLOCK", "0")):

    def refuse(file, operation):
        if number > 0:
            raise OSError(number, os.strerror(number))

    fcntl.flock = refuse

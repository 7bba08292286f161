"""A small process without torch that forks decoders for one worker, and dies with it.

Decoders are its children. It holds one end of a socket whose other end is the worker's alone: when the worker dies,
however it dies, the kernel closes that end, this process ends, and the kernel kills its decoders (PR_SET_PDEATHSIG).
That signal alone would not do for the worker itself: it is tied to the thread that forked, and Ray's threads come and
go. multiprocessing's fork server would import the worker's main module, torch and all, into every decoder.
"""

import ctypes
import os
import resource
import select
import signal
import socket
import traceback
from typing import NoReturn

from pipeline.decoding.child import serve
from pipeline.decoding.wire import Slab, Status, receive, send

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(fd: int) -> None:
    """Serves the worker at the other end of a socket, until that is closed.

    A request is the two files of a new decoder: its own socket, and the memory of its status. The answer is its
    process id. When a decoder ends, its status as waitpid has it is told.
    """
    worker, own_pid = socket.socket(fileno=fd), os.getpid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the worker to deal with
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([worker.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _tell_ended(worker)
        if worker.fileno() in ready:
            request = receive(worker)
            if request is None:
                os._exit(0)
            message, fds = request
            pid = os.fork()
            if pid == 0:
                _be_decoder(own_pid, worker, fds, message["memory_bytes"])
            for inherited in fds:
                os.close(inherited)
            send(worker, {"forked": pid})


def _tell_ended(worker: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        send(worker, {"ended": pid, "status": status})


def _be_decoder(parent: int, worker: socket.socket, fds: list[int], memory_bytes: int) -> NoReturn:
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(code)  # it died just before
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker.close()
        # Counts what malloc takes, by whichever thread; RLIMIT_AS would count the address space that threads reserve.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        control, status = fds
        serve(socket.socket(fileno=control), Status(Slab(Status.SIZE_BYTES, fd=status)))
        code = 0
    except BaseException:
        traceback.print_exc()  # nobody above would say it
    finally:
        os._exit(code)

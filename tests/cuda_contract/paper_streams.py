"""Streams on paper: what is queued on one is done when another stream waits for it, and no earlier."""

import contextlib
import weakref

import torch
from torch.overrides import TorchFunctionMode


class Stream:
    """A stream; the one that computes does everything at once.

    Attributes:
        joined: it waited for the computing stream since its last copy.
    """

    def __init__(self):
        self.queue, self.done, self.joined = [], 0, False

    def wait_stream(self, other):
        self.joined = True

    def record_event(self):
        return self, len(self.queue)

    def wait_event(self, event):
        stream, number = event
        while stream.done < number:
            stream.queue[stream.done]()
            stream.queue[stream.done] = None
            stream.done += 1


class Streams(TorchFunctionMode):
    """Copies on a side stream are late: what they fill is not a number, and what they read has to live, until then.

    Attributes:
        copies: made so far.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.computing = self.current = Stream()
        self.copies = 0
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_late = getattr(func, "__name__", "") == "copy_" and self.current is not self.computing
        if not is_late:
            return func(*args, **kwargs)
        assert kwargs.get("non_blocking"), "the host would wait"
        assert self.current.joined, "the source is not computed yet, or the target still in use"
        self.current.joined = False
        target, source = args[0].detach(), weakref.ref(args[1])
        if target.is_floating_point():
            target.fill_(torch.nan)
        self.current.queue.append(lambda: self._copy(target, source))
        return args[0]

    def _copy(self, target, source):
        assert source() is not None, "the source was let go before its copy was made"
        with torch.no_grad():
            target.copy_(source())
        self.copies += 1

"""`sys.stdout` and `sys.stderr` of a function: complete lines become `Log` frames of the call that is running.

A thread that a call left behind may go on printing: its lines carry the call that runs at that moment, or id 0 when
none does. Only the serve loop writes answers, so no such thread can reach into a later one.

Caps: an entry holds at most 16 KiB (longer text is cut into several), an invocation at most `log_bytes_max`; then one
note says so. What is printed between two calls draws on the allowance of the call before. A process that the function forks
is not on the channel: its prints go to descriptor 1 or 2, the pipe.
"""

import codecs
import io
import os
from _thread import RLock, get_ident

from wire import LOG, LOG_ENTRY, LOG_ENTRY_BYTES_MAX

STDOUT, STDERR, TRACEBACK = 0, 1, 2

# In the shape of an unpacked `wire.CALL`, of which only id and nonce (4 and 5) are read.
NO_CALL = (0, 0, 0, 0, 0, 0)


class Logs:
    """The channel's log side: who is running, how much it may still write."""

    def __init__(self, send, log_bytes_max=0):
        self.send = send
        # Reentrant: a print can run a garbage collection whose finalisers print.
        self.lock = RLock()
        # The serve loop sets this and nothing else per call; the rest follows when something is printed.
        self.call = NO_CALL
        # Whether a line is begun and not complete.
        self.dirty = False
        self.raw = False
        self.streams = ()
        self._metered_call = NO_CALL
        self.set_limit(log_bytes_max)

    def set_limit(self, log_bytes_max):
        """Allows so many bytes for each invocation, and for what comes before the first."""
        self.log_bytes_max = self._left = log_bytes_max

    def install(self):
        """Takes the place of the interpreter's standard streams."""
        import sys

        out, err = LogStream(self, STDOUT, 1), LogStream(self, STDERR, 2)
        self.streams = (out, err)
        sys.stdout = sys.__stdout__ = out
        sys.stderr = sys.__stderr__ = err

    def finish_lines(self):
        """Sends what was printed without a line end."""
        with self.lock:
            self.dirty = False
            for stream in self.streams:
                stream.finish_lines()

    def forked(self):
        """In a child of the function's own: from now on write to the descriptors, which are the pipe."""
        self.lock = RLock()
        self.raw = True

    def emit(self, stream, text):
        """Sends text as entries of at most 16 KiB, as far as the invocation's allowance goes."""
        data = text.encode("utf-8", "replace")
        with self.lock:
            call = self.call
            if call is not self._metered_call and call is not NO_CALL:
                self._metered_call = call
                self._left = self.log_bytes_max
            left = self._left
            if left < 0:
                return
            # An empty line counts too, or a loop of them would be free.
            self._left = left - max(len(data), 1)
            at = 0
            size = min(len(data), left)
            # An empty line is an entry, the empty rest of an allowance is not.
            while at < size or not data:
                end = _entry_end(data, at, size)
                self._send_entry(stream, call, data[at:end])
                at = end
                if at >= size:
                    break
            if self._left < 0:
                self._send_entry(stream, call, b"[log cut at %d bytes]" % self.log_bytes_max)

    def _send_entry(self, stream, call, data):
        if self.raw:
            os.write(2 if stream else 1, data + b"\n")
        else:
            self.send(LOG_ENTRY.pack(len(data) + 1, LOG, 0, 0, call[4], call[5], stream) + data)


def _entry_end(data, at, size):
    """Where the entry that begins at `at` ends: at a line end if one is near, never within a character."""
    end = at + LOG_ENTRY_BYTES_MAX
    if end >= size:
        return size
    line_end = data.rfind(b"\n", at + LOG_ENTRY_BYTES_MAX // 2, end)
    if line_end > 0:
        return line_end + 1
    while end > at + 1 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


class LogStream(io.TextIOBase):
    """A text stream whose complete lines are log entries. One `write` of several lines is one entry."""

    encoding = "utf-8"
    errors = "replace"
    newlines = None
    line_buffering = True
    write_through = False
    mode = "w"

    def __init__(self, logs, stream, descriptor):
        self._logs = logs
        self._stream = stream
        self._descriptor = descriptor
        # What each thread has written since its last line end, so that lines of two threads never mix. An empty text
        # is a line whose beginning has been sent already.
        self._begun = {}
        self.name = "<stdout>" if stream == STDOUT else "<stderr>"
        self.buffer = _Binary(self)

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not %s" % type(text).__name__)
        logs = self._logs
        thread = get_ident()
        with logs.lock:
            begun = self._begun.pop(thread, None)
            end = text.rfind("\n")
            if end >= 0:
                line = text[:end]
                if begun is None:
                    logs.emit(self._stream, line)
                elif begun or line:
                    logs.emit(self._stream, begun + line)
                begun = None
                rest = text[end + 1:]
            else:
                rest = text
            if rest or begun is not None:
                rest = begun + rest if begun else rest
                if len(rest) >= LOG_ENTRY_BYTES_MAX:
                    logs.emit(self._stream, rest)
                    rest = ""
                self._begun[thread] = rest
                logs.dirty = True
        return len(text)

    def finish_lines(self):
        begun = self._begun
        self._begun = {}
        for text in begun.values():
            if text:
                self._logs.emit(self._stream, text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def fileno(self):
        return self._descriptor

    def isatty(self):
        return False

    def readable(self):
        return False

    def writable(self):
        return True

    def seekable(self):
        return False

    def flush(self):
        # A complete line has left already; a begun one stays together until it is complete or the call ends.
        pass

    def close(self):
        # As with a terminal's streams, closing these would only turn later prints into errors.
        pass

    def reconfigure(self, **_options):
        pass


class _Binary(io.RawIOBase):
    """`sys.stdout.buffer`: bytes that are read as UTF-8, invalid sequences replaced."""

    def __init__(self, text):
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data):
        data = bytes(data)
        self._text.write(self._decoder.decode(data))
        return len(data)

    def fileno(self):
        return self._text.fileno()

    def isatty(self):
        return False

    def writable(self):
        return True

    def close(self):
        pass

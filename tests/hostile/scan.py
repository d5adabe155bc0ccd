# Looks for texts in all memory that this process can read, in native code's way: `write` to a pipe says of any address
# whether it is mapped, and gives what is there. Texts are given and looked for backwards, in pages turned around, so
# that the search does not find itself.
import ctypes, fcntl

libc = ctypes.CDLL(None, use_errno=True)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.sbrk.restype = ctypes.c_void_p
libc.sbrk.argtypes = [ctypes.c_ssize_t]
PAGE = 4096
READ, WRITE = os.pipe()


def page(address):
    if libc.write(WRITE, address, PAGE) != PAGE:
        return None
    return os.read(READ, PAGE)


def around(address, mebibytes):
    """The mapped pages around an address, with gaps of up to this size."""
    for step in (1, -1):
        at, missed = address // PAGE * PAGE - (PAGE if step < 0 else 0), 0
        while missed < mebibytes * 256:
            content = page(at)
            missed = missed + 1 if content is None else 0
            if content is not None:
                yield content
            at += step * PAGE


def counts(backward):
    found, pages, last = dict.fromkeys(backward, 0), 0, b""
    for start in (libc.sbrk(0), id([]), ctypes.addressof(ctypes.c_char.in_dll(libc, "environ"))):
        for content in around(start, 16):
            pages += 1
            turned = (last[-64:] + content)[::-1]
            for text in backward:
                found[text] += turned.count(text)
            last = content
    return pages, [found[text] for text in backward]

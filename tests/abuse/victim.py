"""Another function, with everything that an attacker could want, counting its calls."""
import ctypes
import os
import socket

libc = ctypes.CDLL(None, use_errno=True)
for directory in ("/tmp", "/dev/shm"):
    with open(directory + "/secret", "w") as file:
        file.write(SECRET)
door = socket.socket(socket.AF_UNIX)
door.bind("\0" + DOOR)
door.listen()
tcp = socket.socket()
tcp.bind(("0.0.0.0", PORT))
tcp.listen()
held = [libc.shmget(KEY, 4096, 0o1666), libc.semget(KEY, 1, 0o1666), libc.msgget(KEY, 0o1666)]
assert min(held) >= 0
token = os.environ["TOKEN"]
count = 0


def handle(request):
    global count
    count += 1
    return count

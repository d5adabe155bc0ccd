"""The same thing over and over on several connections, and the moment of rest before and after it."""

import threading
import time

# Numbers after which it is said how far it is.
TELL_EVERY = 100


class CycleError(Exception):
    """One of them failed."""


def repeat(server, count, connections, work, say=None):
    """Has `work(connection, number)` done for each number below `count`. The first failure ends all, and is raised."""
    failures, left = [], iter(range(count))
    lock = threading.Lock()

    def loop():
        with server.connect() as connection:
            while not failures:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                if say and number and number % TELL_EVERY == 0:
                    say(number)
                try:
                    work(connection, number)
                except Exception as error:
                    failures.append(f"number {number}: {error}")

    threads = [threading.Thread(target=loop) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise CycleError(failures[0])


def at_rest(holdings, is_enough, limit_s, pause_s):
    """What `holdings()` gives once that is enough and the same for a second; after `limit_s` whatever it gives."""
    give_up_at = time.monotonic() + limit_s
    last, since = None, time.monotonic()
    while True:
        now = holdings()
        if now != last:
            last, since = now, time.monotonic()
        rested = time.monotonic() - since > 1
        if (rested and is_enough(now)) or time.monotonic() > give_up_at:
            return now
        time.sleep(pause_s)

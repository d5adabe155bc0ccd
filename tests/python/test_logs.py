"""What a function prints, and where it goes."""

import unittest

from support import ZygoteTest

LIMIT = 1000


class Logs(ZygoteTest):
    def logs(self, *lines, **options):
        """The log of a call of these statements, and (as a second call) that it left nothing behind."""
        code = "import sys, logging\ndef handle(request):\n    if request.path == '/again': return\n"
        code += "".join("    %s\n" % line for line in lines)
        with self.zygote.instance(code, **options) as instance:
            outcome = instance.call()
            self.assertIsNone(outcome.error)
            self.assertEqual(instance.call(path=b"/again").logs, [])
            self.assertTrue(all(call_id == 101 for call_id, _, _ in outcome.logs))
            return [(stream, text) for _, stream, text in outcome.logs]

    def test_a_line_is_an_entry(self):
        self.assertEqual(self.logs("print('a')", "print('b', 1)"), [(0, "a"), (0, "b 1")])
        self.assertEqual(self.logs("print('a', end='')", "print('b')"), [(0, "ab")])
        self.assertEqual(self.logs("print('a\\nb')"), [(0, "a"), (0, "b")])
        self.assertEqual(self.logs("sys.stdout.write('a\\nb\\n')"), [(0, "a\nb")])
        self.assertEqual(self.logs("print()"), [(0, "")])
        self.assertEqual(self.logs("print('e', file=sys.stderr)"), [(1, "e")])

    def test_a_line_that_is_not_complete_comes_before_the_answer(self):
        self.assertEqual(self.logs("print('a', end='', flush=True)"), [(0, "a")])
        self.assertEqual(self.logs("sys.stdout.write('a\\nb')"), [(0, "a"), (0, "b")])

    def test_logging_is_captured(self):
        self.assertEqual(self.logs("logging.warning('w')")[-1][0], 1)
        self.assertIn((1, "WARNING:root:w"), self.logs("logging.basicConfig()", "logging.warning('w')"))
        lines = ("logging.basicConfig()", "try: 1/0", "except Exception: logging.exception('x')")
        ((stream, text),) = self.logs(*lines)
        self.assertIn("ERROR:root:x\nTraceback", text)
        self.assertIn("try: 1/0", text)

    def test_what_is_not_unicode_is_replaced(self):
        self.assertEqual(self.logs("print('\\ud800')"), [(0, "?")])
        self.assertEqual(self.logs("sys.stdout.buffer.write(b'\\xff\\xc3'), sys.stdout.buffer.write(b'\\xa9\\n')"),
                         [(0, "\ufffd\u00e9")])

    def test_the_streams_are_text_streams(self):
        self.logs(
            "import io",
            "out = sys.stdout",
            "assert isinstance(out, io.TextIOBase) and out is sys.__stdout__",
            "assert (out.fileno(), sys.stderr.fileno()) == (1, 2)",
            "assert (out.encoding, out.errors, out.isatty(), out.closed) == ('utf-8', 'replace', False, False)",
            "assert (out.writable(), out.readable(), out.seekable()) == (True, False, False)",
            "out.reconfigure(line_buffering=True); out.flush(); out.close(); out.writelines([])",
        )
        self.assertEqual(self.logs("try: sys.stdout.write(b'x')", "except TypeError as e: print(e)"),
                         [(0, "write() argument must be str, not bytes")])

    def test_long_lines_are_cut_into_entries(self):
        entries = self.logs("print('x' * 40000)")
        self.assertEqual([len(text) for _, text in entries], [16384, 16384, 7232])
        entries = self.logs("print('\\u2603' * 20000)")
        self.assertEqual("".join(text for _, text in entries), "\u2603" * 20000)
        entries = self.logs("for _ in range(50000): sys.stdout.write('y')")
        self.assertEqual("".join(text for _, text in entries), "y" * 50000)

    def test_an_invocation_is_cut_at_its_allowance(self):
        note = (0, "[log cut at 1000 bytes]")
        self.assertEqual(self.logs("print('x' * 1000)", log_bytes_max=LIMIT), [(0, "x" * 1000)])
        self.assertEqual(self.logs("print('x' * 1001)", log_bytes_max=LIMIT), [(0, "x" * 1000), note])
        entries = self.logs("print('x' * 1000)", "print('y')", "print('z')", log_bytes_max=LIMIT)
        self.assertEqual(entries, [(0, "x" * 1000), note])
        entries = self.logs("for _ in range(3000): print('x')", "print('y' * 10**7)", log_bytes_max=LIMIT)
        self.assertEqual(entries[-1], note)
        self.assertLessEqual(sum(len(text) for _, text in entries[:-1]), LIMIT)
        entries = self.logs("for _ in range(100000): print()", log_bytes_max=LIMIT)
        self.assertLessEqual(len(entries), LIMIT + 2)

    def test_each_invocation_has_its_own_allowance(self):
        with self.zygote.instance("def handle(r):\n    print('x' * 900)", log_bytes_max=LIMIT) as instance:
            for _ in range(3):
                self.assertEqual([len(text) for text in instance.call().text()], [900])

    def test_top_level_prints_carry_id_0(self):
        with self.zygote.instance("print('loading', end='')\ndef handle(r): pass") as instance:
            self.assertEqual(instance.load_logs, [(0, 0, "loading")])

    def test_threads_may_print_at_once(self):
        code = (
            "import threading\n"
            "def handle(r):\n"
            "    def work(n):\n"
            "        for i in range(200): print(n, i)\n"
            "    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]\n"
            "    [t.start() for t in threads]; [t.join() for t in threads]\n"
        )
        with self.zygote.instance(code) as instance:
            outcome = instance.call()
            lines = [tuple(map(int, line.split())) for text in outcome.text() for line in text.split("\n")]
            self.assertEqual(sorted(lines), [(n, i) for n in range(4) for i in range(200)])

    def test_raw_writes_go_to_the_pipe(self):
        import os

        with self.zygote.instance("import os\ndef handle(r):\n    os.write(1, b'one'); os.write(2, b'two')") as instance:
            self.assertEqual(instance.call().logs, [])
            self.assertEqual(os.read(instance.pipe_read, 100), b"onetwo")


if __name__ == "__main__":
    unittest.main()

"""What `Check` accepts and refuses."""

import unittest

from support import ZygoteTest, wire

ACCEPTED = {
    "a function": "def handle(request): pass",
    "a coroutine function": "async def handle(request): pass",
    "a class": "class handle:\n    pass",
    "an assignment": "handle = lambda request: 1",
    "a tuple assignment": "a, (handle, *b) = 1, (2, 3)",
    "an annotated assignment": "handle: object = print",
    "an import": "from json import dumps as handle",
    "a plain import": "import handle.sub",
    "within if": "if True:\n    def handle(r): pass\nelse:\n    pass",
    "within try": "try:\n    import x\nexcept ImportError:\n    def handle(r): pass",
    "within with": "with open('x') as handle:\n    pass",
    "within for": "for handle in (): pass",
    "within while": "while True:\n    handle = 1\n    break",
    "by an assignment expression": "print(handle := 1)",
    "by a comprehension's assignment expression": "[handle := x for x in ()]",
    "by global": "def f():\n    global handle\n    handle = 1\nf()",
    "a star import": "from x import *",
    "exec": "exec('def handle(r): pass')",
    "globals()": "globals()['handle'] = 1",
    "sys.modules": "import sys\nsetattr(sys.modules[__name__], 'handle', 1)",
    "a module's __getattr__": "def __getattr__(name): return print",
    "a byte order mark": "\ufeffdef handle(r): pass",
    "CRLF": "def handle(r):\r\n    pass\r\n",
    "a coding cookie of another encoding": "# -*- coding: latin-1 -*-\ndef handle(r): return '\u2603'",
    "an invalid escape, which only warns": "def handle(r): return '\\d'",
}
REFUSED = {
    "no code": "",
    "another function": "def handler(r): pass",
    "a method": "class A:\n    def handle(self, r): pass",
    "an inner function": "def f():\n    def handle(r): pass",
    "an exception's name, which is unbound again": "try: pass\nexcept Exception as handle: pass",
    "only read": "print(handle)",
    "an attribute": "import a\na.handle = 1",
}


class Check(ZygoteTest):
    def check(self, code, handler="handle"):
        with self.zygote.blank() as blank:
            return blank.check(code, handler)

    def test_accepts_code_that_binds_the_handler(self):
        for name, code in ACCEPTED.items():
            self.assertEqual(self.check(code), {"ok": True}, name)

    def test_refuses_code_that_does_not(self):
        for name, code in REFUSED.items():
            verdict = self.check(code)
            self.assertEqual((verdict["ok"], verdict.get("reason")), (False, "handler"), name)
        self.assertIn("defines `a`, `b`", self.check("def b(): pass\ndef a(): pass")["message"].replace("it ", ""))

    def test_names_line_and_column_of_a_syntax_error(self):
        verdict = self.check("x = 1\ndef handle(request)\n    pass\n")
        self.assertEqual((verdict["ok"], verdict["reason"], verdict["line"]), (False, "syntax", 2))
        self.assertGreater(verdict["column"], 10)
        self.assertIn("SyntaxError", verdict["message"])
        verdict = self.check("def handle(r):\nreturn 1")
        self.assertEqual((verdict["reason"], verdict["line"]), ("syntax", 2))
        self.assertIn("IndentationError", verdict["message"])
        # Found only by the second half of the compiler.
        self.assertEqual(self.check("def handle(r): pass\nreturn 1")["line"], 2)

    def test_survives_hostile_code(self):
        cases = {
            "NUL": ("a = '\0'", ("syntax",)),
            "deep parentheses": ("(" * 100000 + ")" * 100000, ("syntax", "limit")),
            "deep brackets within the tokeniser's bound": ("x = " + "[" * 190 + "]" * 190, ("limit", "handler", "syntax")),
            "deep unary": ("x = " + "-" * 20000 + "1", ("limit", "syntax", "handler")),
            "deep attributes": ("x = a" + ".b" * 20000, ("limit", "syntax", "handler")),
            "deep additions": ("x = " + "1+" * 20000 + "1", ("limit", "syntax", "handler")),
            "a huge number": ("x = " + "9" * 100000, ("limit", "syntax", "handler")),
            "half a surrogate": ("x = '\\ud800'", ("handler",)),
        }
        for name, (code, reasons) in cases.items():
            verdict = self.check(code)
            self.assertIn(verdict.get("reason"), reasons, name)
            self.assertIsInstance(verdict["message"], str)

    def test_does_not_run_the_code(self):
        self.assertEqual(self.check("import os\nos._exit(1)\ndef handle(r): pass"), {"ok": True})

    def test_long_code_comes_in_pieces(self):
        self.assertEqual(self.check("#" * 500000 + "\ndef handle(r): pass"), {"ok": True})

    def test_the_blank_waits_for_its_end_afterwards(self):
        with self.zygote.blank() as blank:
            blank.check("def handle(r): pass")
            blank.send(wire.frame(wire.STOP, 0, 0, 0, b""))
            self.assertIsNone(blank.receive())


if __name__ == "__main__":
    unittest.main()

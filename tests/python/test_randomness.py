"""What is drawn at random: blanks are forks of one process, and none may repeat what another draws."""

import importlib.util
import os
import unittest

from support import InstanceTest

# Modules that draw when they are loaded or first used, and would go on alike in every fork.
GENERATORS = {"random", "_random", "secrets", "uuid", "_uuid", "tempfile", "ssl", "_ssl", "numpy"}

NUMPY = importlib.util.find_spec("numpy")

DRAW_NUMPY = """
import os, sys
sys.path.append(os.environ["PACKAGES"])
import numpy
early = numpy.random.default_rng()
early_legacy = float(numpy.random.rand())

def handle(request):
    return {
        "legacy": float(numpy.random.rand()),
        "legacy while loading": early_legacy,
        "RandomState": float(numpy.random.RandomState().rand()),
        "default_rng": float(numpy.random.default_rng().random()),
        "default_rng made while loading": float(early.random()),
        "SeedSequence": str(numpy.random.SeedSequence().entropy),
    }
"""


class Randomness(InstanceTest):
    def test_no_generator_is_loaded_before_the_fork(self):
        instance = self.load("import sys\nloaded = sorted(sys.modules)\ndef handle(r):\n    return loaded\n")
        self.assertEqual(GENERATORS.intersection(instance.call().json), set())

    def test_siblings_have_random_numbers_of_their_own(self):
        code = (
            "import random, tempfile, uuid\nearly = random.Random()\n"
            "def handle(r):\n"
            "    return [random.random(), early.random(), str(uuid.uuid4()), next(tempfile._get_candidate_names())]\n"
        )
        one, other = (self.load(code).call().json for _ in range(2))
        self.assertEqual([value for value in one if value in other], [])

    def test_strings_hash_alike_in_siblings(self):
        code = "def handle(r):\n    return hash('a text')\n"
        self.assertEqual(self.load(code).call().json, self.load(code).call().json)

    @unittest.skipIf(NUMPY is None, "this Python has no numpy")
    def test_siblings_have_numbers_of_their_own_from_numpy(self):
        packages = os.path.dirname(os.path.dirname(NUMPY.origin))
        one, other = (self.load(DRAW_NUMPY, environment={"PACKAGES": packages}).call().json for _ in range(2))
        self.assertEqual(len(one), 6)
        self.assertEqual([name for name in one if one[name] == other[name]], [])


if __name__ == "__main__":
    unittest.main()

"""The outcome of a `Check`: does the code compile, and does its top level bind the handler's name.

The code is compiled and read, never run. Where reading cannot tell (`exec`, `from x import *`) it is accepted: the
first start will tell.
"""

import ast
import warnings

# Calls through which a module can bind names that reading does not show.
_UNREADABLE = frozenset(("exec", "eval", "globals", "vars", "locals", "setattr", "__import__"))
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_NAMES_SHOWN_MAX = 10


def check(code, module, handler):
    """The payload of a `CheckResult`, as a dict."""
    warnings.simplefilter("ignore")
    try:
        tree = compile(code, "%s.py" % module, "exec", ast.PyCF_ONLY_AST, True)
        # Some errors are found only behind the parser: `return` outside a function, `nonlocal x` at the top.
        compile(code, "%s.py" % module, "exec", 0, True)
        bound, readable = _bound_names(tree)
    except SyntaxError as error:
        return {
            "ok": False,
            "reason": "syntax",
            "line": _position(error.lineno),
            "column": _position(error.offset),
            "message": "%s: %.1000s" % (type(error).__name__, error.msg),
        }
    except RecursionError:
        return _limit("the code is nested too deep")
    except (MemoryError, OverflowError):
        return _limit("the code is too large or nested too deep to compile")
    except ValueError as error:
        # NUL bytes before 3.12, lone surrogates.
        return {"ok": False, "reason": "syntax", "line": None, "column": None, "message": "%.1000s" % error}
    except SystemError:
        # What the compiler of 3.9 to 3.11 raises for some sorts of excess.
        return _limit("the compiler gave up on the code")
    if handler in bound or not readable:
        return {"ok": True}
    return {"ok": False, "reason": "handler", "line": None, "column": None, "message": _missing(handler, bound)}


def _position(value):
    # `SyntaxError` may carry None, 0 or -1 for "unknown".
    return value if isinstance(value, int) and value > 0 else None


def _limit(message):
    return {"ok": False, "reason": "limit", "line": None, "column": None, "message": message}


def _missing(handler, bound):
    functions = sorted(name for name, kind in bound.items() if kind == "function")
    message = "the code does not define `%s` at its top level" % handler
    if functions:
        shown = ", ".join("`%s`" % name for name in functions[:_NAMES_SHOWN_MAX])
        message += "; it defines %s%s" % (shown, ", …" if len(functions) > _NAMES_SHOWN_MAX else "")
    return message


def _bound_names(tree):
    """The names that the top level binds, whatever the block they are in, and whether that is all of them."""
    bound = {}
    readable = True
    top_level = [tree]
    while top_level:
        node = top_level.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            bound[node.name] = "function"
        elif isinstance(node, ast.ClassDef):
            bound[node.name] = "class"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, "name")
        elif isinstance(node, ast.alias):
            if node.name == "*":
                readable = False
            else:
                bound.setdefault(node.asname or node.name.split(".")[0], "import")
        else:
            # Captures of `match`: MatchAs and MatchStar have `name`, MatchMapping has `rest`; absent before 3.10.
            for captured in (getattr(node, "name", None), getattr(node, "rest", None)):
                if isinstance(captured, str) and not isinstance(node, ast.ExceptHandler):
                    bound.setdefault(captured, "name")
        if isinstance(node, _SCOPES):
            # Decorators and defaults are the top level's, but they bind only through `:=`, which nobody writes there.
            continue
        top_level.extend(ast.iter_child_nodes(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            for name in node.names:
                bound.setdefault(name, "name")
        elif isinstance(node, ast.Name) and node.id in _UNREADABLE:
            readable = False
        elif isinstance(node, ast.Attribute) and node.attr == "modules":
            readable = False
    # PEP 562: such a module answers for names that it never binds.
    return bound, readable and "__getattr__" not in bound

"""Finds Python functions that are too long or nested too deeply. For Rust, clippy.toml has the same limits."""

import ast

# Lines of a function, from `def` to its last line.
LINES = 70
# Blocks inside of one another in a function's body.
DEPTH = 5

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def violations(texts: dict) -> list:
    """Returns `path:line: problem` for every violation in the Python files, given their texts by path."""
    found = []
    for name, text in texts.items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            lines, deepest = node.end_lineno - node.lineno + 1, depth(node)
            if lines > LINES:
                found.append(f"{name}:{node.lineno}: {node.name} has {lines} lines, more than {LINES}")
            if deepest > DEPTH:
                found.append(f"{name}:{node.lineno}: {node.name} is nested {deepest} deep, more than {DEPTH}")
    return found


def depth(node: ast.AST) -> int:
    """Returns the number of blocks inside of one another; `elif` adds none."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        is_elif = field == "orelse" and isinstance(node, ast.If) and len(children) == 1
        for child in children:
            if isinstance(child, ast.AST):
                own = isinstance(child, BLOCKS) and not (is_elif and isinstance(child, ast.If))
                deepest = max(deepest, depth(child) + own)
    return deepest

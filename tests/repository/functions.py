"""Finds Python functions that are too long or nested too deeply. clippy.toml has the same limits for Rust."""

import ast

# Maximum number of lines of a function, from `def` to its last line.
MAX_LINES = 70
# Maximum nesting depth of blocks in a function's body.
MAX_DEPTH = 5

# Statements that count as a block.
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def violations(texts: dict) -> list:
    """Returns `path:line: problem` for every violation. `texts` maps the paths of the tracked files to their texts."""
    found = []
    for name, text in texts.items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            lines, deepest = node.end_lineno - node.lineno + 1, depth(node)
            if lines > MAX_LINES:
                found.append(f"{name}:{node.lineno}: {node.name} has {lines} lines, more than {MAX_LINES}")
            if deepest > MAX_DEPTH:
                found.append(f"{name}:{node.lineno}: {node.name} is nested {deepest} deep, more than {MAX_DEPTH}")
    return found


def depth(node: ast.AST) -> int:
    """Returns the maximum nesting depth of blocks. An `elif` is no deeper than its `if`."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        is_elif = field == "orelse" and isinstance(node, ast.If) and len(children) == 1
        for child in children:
            if isinstance(child, ast.AST):
                adds_level = isinstance(child, BLOCKS) and not (is_elif and isinstance(child, ast.If))
                deepest = max(deepest, depth(child) + adds_level)
    return deepest

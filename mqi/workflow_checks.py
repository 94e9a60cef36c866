"""What no single key of a workflow file can show: how its steps fit together. Reports all, with lines."""

from __future__ import annotations

import re
from typing import Any

from mqi.config_shape import choices
from mqi.workflow_keys import PLACEHOLDERS
from mqi.yaml_reading import INVALID, Key, Reading

Values = dict[str, Any]
_EXACT = r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)\}"


def check_steps(steps: tuple[Values, ...], reading: Reading) -> list[str]:
    """Note what does not fit together; the steps' names, each after its needs, else in the file's order."""
    keys = _keys_by_name(steps, reading)
    for number, step in enumerate(steps, start=1):
        _check_needs(step, ("steps", number), keys, reading)
        _check_run(step, ("steps", number), steps, reading)
    return _topological(steps, reading)


def _keys_by_name(steps: tuple[Values, ...], reading: Reading) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for number, step in enumerate(steps, start=1):
        name = step.get("name")
        if name is None:
            continue
        if name in keys:
            line = reading.lines.get(keys[name], 0)
            reading.wrong(("steps", number, "name"), f"`{name}` is already the step in line {line}")
        else:
            keys[name] = ("steps", number)
    return keys


def _check_needs(step: Values, key: Key, keys: dict[str, Key], reading: Reading) -> None:
    needs = step.get("needs", ())
    for number, needed in enumerate(needs, start=1):
        place = (*key, "needs", number)
        if needed is INVALID:
            continue
        if needed == step.get("name"):
            reading.wrong(place, f"`{needed}` needs itself")
        elif needed not in keys:
            reading.wrong(place, f"there is no step `{needed}`; {choices(needed, tuple(keys))}")
        elif needed in needs[: number - 1]:
            reading.wrong(place, f"`{needed}` is given twice")


def _check_run(step: Values, key: Key, steps: tuple[Values, ...], reading: Reading) -> None:
    for number, word in enumerate(step.get("run", ()), start=1):
        place = (*key, "run", number)
        if word is INVALID:
            continue
        if number == 1 and not word.strip():
            reading.wrong(place, "the command's first word is the program; it is empty")
        # A text with quotes, such as JSON, may have braces of its own: there the host looks only for
        # what is written exactly like a placeholder.
        quoted = '"' in word
        for placeholder in re.findall(_EXACT if quoted else r"\{([^{}]*)\}", word):
            problem = _placeholder_problem(placeholder, step, steps)
            if problem:
                reading.wrong(place, problem)
        if not quoted and re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", word)):
            reading.wrong(place, f"`{word}` has a brace without its partner")


def _placeholder_problem(placeholder: str, step: Values, steps: tuple[Values, ...]) -> str | None:
    written = f"`{{{placeholder}}}`"
    if placeholder.startswith("outputs."):
        needed = placeholder.removeprefix("outputs.")
        if needed not in step.get("needs", ()):
            return f"{written}: `{needed}` is not among the step's `needs`"
        per_beam = any(one.get("name") == needed and one.get("for_each") == "beam" for one in steps)
        if per_beam and step.get("for_each") == "case":
            return f"{written}: `{needed}` has one folder per beam; read them from `{{needs}}`"
        return None
    if placeholder not in PLACEHOLDERS or not placeholder.islower():
        return _parameter_problem(placeholder, step)
    if placeholder == "beam" and step.get("for_each") == "case":
        return f"{written} has a value only with `for_each: beam`"
    if placeholder == "files" and step.get("files") == ():
        return f"{written}: the step names no `files`"
    return None


def _parameter_problem(placeholder: str, step: Values) -> str | None:
    parameters = step.get("parameters", {})
    value = parameters.get(placeholder)
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return None
    written = f"`{{{placeholder}}}`"
    if placeholder in parameters:
        return f"{written}: only a parameter that is text or a number can stand in the command"
    return f"{written} is not known; {choices(placeholder, (*PLACEHOLDERS, *parameters))}"


def _topological(steps: tuple[Values, ...], reading: Reading) -> list[str]:
    known = {step["name"] for step in steps if "name" in step}
    waiting = {
        step["name"]: ({need for need in step.get("needs", ()) if need in known} - {step["name"]}, number)
        for number, step in enumerate(steps, start=1)
        if "name" in step
    }
    order: list[str] = []
    while waiting:
        ready = next((name for name, (needs, _) in waiting.items() if needs <= set(order)), None)
        if ready is None:
            _note_cycle({name: needs - set(order) for name, (needs, _) in waiting.items()}, waiting, reading)
            break
        order.append(ready)
        del waiting[ready]
    return order


def _note_cycle(
    needs: dict[str, set[str]], waiting: dict[str, tuple[set[str], int]], reading: Reading
) -> None:
    """Note one cycle among steps of which each needs another one of them."""
    path = [next(iter(needs))]
    while path[-1] not in path[:-1]:
        path.append(min(needs[path[-1]]))
    cycle = path[path.index(path[-1]) :]
    arrows = " needs ".join(f"`{name}`" for name in cycle)
    reading.wrong(("steps", waiting[cycle[0]][1], "needs"), f"the steps wait for each other: {arrows}")

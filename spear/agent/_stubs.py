"""The stub of a typed client: an agent's functions with their parameters and results, as source text."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Collection, Iterator
from inspect import Parameter
from typing import TYPE_CHECKING, Final, final, get_args

from spear._signatures import STREAMS
from spear.annotations import TypeTexts, resolve_hints

from ._item_annotations import is_items
from ._wrappers import for_callers, what_it_takes

if TYPE_CHECKING:
    from ._app import Agent
    from ._functions import RegisteredFunction

HEADER: Final = '''\
"""A typed client of {name}, written by ``spear stubs``. Do not edit it: run the command again."""
'''

MAX_LINE: Final = 96
"""Columns of a declaration, without those of the class around it; a longer one has several lines."""

_OURS: Final = ("timeout", "sends_items")
"""Names of keyword arguments that every call has for itself."""


def write_stub(agent: Agent, name: str, package: str, taken: Collection[str]) -> str:
    """Return the stub of a typed client for the functions of an agent.

    Args:
        agent: the agent.
        name: the name of the program, of which the name of the client's class is made.
        package: the package with ``DeployedProgram``, ``typed_function`` and ``typed_stream``.
        taken: names that cannot be functions of the client: the attributes of ``DeployedProgram``.
    """
    title = class_name(name)
    functions = agent._service.functions
    texts = TypeTexts({title, *(each.name for each in functions)})
    base = texts.name(package, "DeployedProgram")
    body = [_Declaration(each, texts, package, taken).text() for each in functions]
    lines = [f"class {title}({base}):", "\n".join(body) or "    ..."]
    return (
        "\n".join([HEADER.format(name=name), *texts.import_lines(), "", *lines]).rstrip("\n") + "\n"
    )


def class_name(name: str) -> str:
    """Return the name of a client's class: ``MyShop`` for the program ``my-shop``."""
    parts = re.findall(r"[A-Za-z0-9]+", name)
    title = "".join(part[0].upper() + part[1:] for part in parts)
    return title if title.isidentifier() and not keyword.iskeyword(title) else f"Client{title}"


@final
class _Declaration:
    """The declaration of one function in a stub."""

    def __init__(
        self, function: RegisteredFunction, texts: TypeTexts, package: str, taken: Collection[str]
    ) -> None:
        self._function = function
        self._texts = texts
        self._package = package
        self._taken = taken

    def text(self) -> str:
        """Return the declaration, after comments about the types that it cannot express."""
        name, remarks = self._function.name, self._texts.remarks
        remarks.clear()
        if (
            not name.isidentifier()
            or keyword.iskeyword(name)
            or name[0] == "_"
            or name in self._taken
        ):
            return f'    # {name}: the client has no such attribute; use .function("{name}"), untyped.\n'
        try:
            takes = what_it_takes(self._function.function)
        except ValueError:  # such as some functions written in C
            return f'    # {name}: its signature is not known; use .function("{name}"), untyped.\n'
        hinted = [
            each.replace(annotation=takes.hints.get(each.name, each.annotation))
            for each in for_callers(takes)
        ]
        parameters = [each for each in hinted if not is_items(each.annotation)]
        is_stream = self._function.kind == "stream"
        takes_items = len(parameters) < len(hinted)
        kind = "typed_stream" if is_stream or takes_items else "typed_function"
        options = ["timeout"] + ["sends_items"] * takes_items
        first = "this" if any(each.name == "self" for each in parameters) else "self"
        listed = [first, *self._parameters(parameters, options, is_stream)]
        returns = self._returns(is_stream)
        lines = [f"# {each}." for each in dict.fromkeys(remarks)]
        lines.append(f"@{self._texts.name(self._package, kind)}")
        begin, end = f"def {name}(", f") -> {returns}:"
        if len(line := begin + ", ".join(listed) + end) <= MAX_LINE:
            lines.append(line)
        else:
            lines += [begin, *(f"    {each}," for each in listed), end]
        summary = (inspect.getdoc(self._function.function) or "").partition("\n")[0]
        if summary and summary.isprintable() and '"' not in summary and "\\" not in summary:
            lines.append(f'    """{summary}"""')
        else:
            lines[-1] += " ..."
        return "".join(f"    {each}\n" for each in lines)

    def _parameters(
        self, parameters: list[Parameter], options: list[str], is_stream: bool
    ) -> Iterator[str]:
        """Yield the parameters of the function and of each call as text."""
        kinds = [each.kind for each in parameters]
        is_open = False  # whether a parameter with a star came
        for at, each in enumerate(parameters):
            name = each.name
            if name in _OURS:
                self._texts.remarks.append(
                    f"{name} is that of the call; for the function's use keywords="
                )
                if each.kind is Parameter.KEYWORD_ONLY:
                    continue
                name += "_"
            if each.kind is Parameter.VAR_KEYWORD:
                yield from self._options(options, is_stream, is_open)
                options = []
            if each.kind is Parameter.KEYWORD_ONLY and not is_open:
                yield "*"
                is_open = True
            stars = "*" if each.kind is Parameter.VAR_POSITIONAL else ""
            stars = "**" if each.kind is Parameter.VAR_KEYWORD else stars
            is_open |= stars == "*"
            default = ""
            if each.default is not each.empty:
                default = f" = {self._texts.default(each.default)}"
            hint = object if each.annotation is each.empty else each.annotation
            yield f"{stars}{name}: {self._texts.argument(hint)}{default}"
            if each.kind is Parameter.POSITIONAL_ONLY and kinds[at + 1 :][:1] != [each.kind]:
                yield "/"
        yield from self._options(options, is_stream, is_open)

    def _options(self, options: list[str], is_stream: bool, is_open: bool) -> Iterator[str]:
        texts = self._texts
        if options and not is_open:
            yield "*"
        for each in options:
            if each == "timeout":
                yield f"timeout: {texts.name('builtins', 'float')} | None = None"
            elif is_stream:
                yield f"{each}: {texts.name('builtins', 'bool')} = False"
            else:  # the function waits for items
                yield f"{each}: {texts.name('typing', 'Literal')}[True]"

    def _returns(self, is_stream: bool) -> str:
        """Return the type of a result, or of one item of a stream."""
        function = self._function.function
        hint = resolve_hints(inspect.unwrap(function)).get("return", object)
        arguments = get_args(hint)
        if is_stream:
            name = getattr(hint, "__name__", getattr(hint, "_name", ""))
            hint = arguments[0] if arguments and name in STREAMS else object
        return self._texts.result(hint)

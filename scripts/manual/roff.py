"""Man pages, in the man macros of roff. Pure: from commands to text."""

from __future__ import annotations

from manual.commands import Flag, Verb

EXIT_STATUS = (
    ("0", "Done. Ctrl-C, SIGTERM and the end of the target end a trace normally."),
    ("1", "Failed: an output could not be written, or the target ended before tracing began."),
    ("2", "The command line makes no sense."),
    ("3", "The host or the target is refused: not root, no BPF, not a Go binary, an unknown layout."),
    ("130", "Interrupted before anything was recorded."),
)


def escaped(text: str) -> str:
    """`text` so that roff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(char if ord(char) < 128 else f"\\[u{ord(char):04X}]" for char in text)
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.split("\n"))


def verb_page(verb: Verb, verbs: list[Verb], version: str) -> str:
    """The page of one verb."""
    arguments = " ".join(f"\\fI{escaped(argument)}\\fR" for argument in verb.arguments)
    lines = [
        _title(f"GOTRACE-{verb.name.upper()}", version), ".SH NAME", f"gotrace\\-{verb.name} \\- {escaped(_lowered(verb.summary))}",
        ".SH SYNOPSIS", f"\\fBgotrace {verb.name}\\fR [\\fIOPTIONS\\fR] {arguments}".rstrip(), ".SH DESCRIPTION",
    ]
    lines += _text(verb.paragraphs)
    lines.append(".SH OPTIONS")
    for flag in verb.flags:
        lines += _flag(flag)
    if verb.epilog:
        lines += [".SH NOTES", *_text(verb.epilog)]
    others = [f"gotrace-{other.name}(1)" for other in verbs if other is not verb]
    return _end([*lines, *_exit_status(), *_see_also(["gotrace(1)", *others])])


def main_page(paragraphs: tuple[str, ...], verbs: list[Verb], version: str) -> str:
    """The page of ``gotrace``."""
    lines = [
        _title("GOTRACE", version),
        ".SH NAME", "gotrace \\- show where the goroutines of a running Go process spend their time off the CPU",
        ".SH SYNOPSIS", "\\fBgotrace\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENT\\fR...]",
        ".SH DESCRIPTION", *_text(paragraphs), ".SH COMMANDS",
    ]
    for verb in verbs:
        lines += [".TP", f"\\fBgotrace\\-{verb.name}\\fR(1)", escaped(verb.summary + ".")]
    lines += [".SH OPTIONS", ".TP", "\\fB\\-V\\fR, \\fB\\-\\-version\\fR", "Show the version and exit.", *_flag(verbs[0].flags[-1])]
    return _end([*lines, *_exit_status(), *_see_also([f"gotrace-{verb.name}(1)" for verb in verbs])])


def _title(name: str, version: str) -> str:
    return f".TH {escaped(name)} 1 \"\" \"gotrace {version}\" \"gotrace manual\""


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _text(paragraphs: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for number, paragraph in enumerate(paragraphs):
        if number:
            lines.append(".PP")
        if paragraph.startswith("\b"):
            lines += [".nf", escaped(paragraph.lstrip("\b\n").rstrip()), ".fi"]
        else:
            lines.append(escaped(" ".join(paragraph.split())))
    return lines


def _flag(flag: Flag) -> list[str]:
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in flag.names)
    value = f" \\fI{escaped(flag.value)}\\fR" if flag.value else f" [{escaped('|'.join(flag.choices))}]" if flag.choices else ""
    more = f" [default: {flag.default}]" if flag.default else ""
    return [".TP", names + value, escaped(flag.help + more)]


def _exit_status() -> list[str]:
    return [".SH EXIT STATUS", *(line for code, text in EXIT_STATUS for line in (".TP", f"\\fB{code}\\fR", escaped(text)))]


def _see_also(pages: list[str]) -> list[str]:
    named = ", ".join(f"\\fB{escaped(page.removesuffix('(1)'))}\\fR(1)" for page in pages)
    return [".SH SEE ALSO", named]


def _end(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"

"""Completions for bash, zsh and fish. Pure: from commands to text.

The words are in the files: nothing is started when Tab is pressed.
"""

from __future__ import annotations

from manual.commands import Flag, Verb


def bash(verbs: list[Verb]) -> str:
    """For bash's ``complete``."""
    cases, flags, arguments = [], [], []
    for verb in verbs:
        for flag in verb.flags:
            patterns = "|".join(f'"{verb.name} {name}"' for name in flag.names)
            if flag.choices:
                cases.append(f'        {patterns}) COMPREPLY=($(compgen -W "{" ".join(flag.choices)}" -- "$current")); return ;;')
            elif flag.is_file:
                cases.append(f'        {patterns}) compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;')
            elif flag.value:
                cases.append(f"        {patterns}) return ;;")
        flags.append(f'        {verb.name}) words="{" ".join(name for flag in verb.flags for name in flag.names)}" ;;')
        does = [_BASH_PIDS] if verb.takes_pid else []
        does += [_BASH_FILES] if verb.takes_file else []
        if does:
            arguments.append(f"        {verb.name}) {' '.join(does)} ;;")
    return f"""# bash completion for gotrace. Made by scripts/docs.
# shellcheck shell=bash disable=SC2207

_gotrace() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} verb= word words=
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ $word == -* ]] || {{ verb=$word && break; }}
    done
    # --mode=lean is three words to bash.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    case "$verb $previous" in
{chr(10).join(cases)}
    esac
    case $verb in
        "") words="{" ".join(verb.name for verb in verbs)} -V --version -h --help" ;;
{chr(10).join(flags)}
    esac
    if [[ -z $verb || $current == -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi
    case $verb in
{chr(10).join(arguments)}
    esac
}}

complete -F _gotrace gotrace
"""


_BASH_PIDS = 'COMPREPLY+=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$current"));'
_BASH_FILES = 'compopt -o filenames; COMPREPLY+=($(compgen -f -- "$current"));'


def zsh(verbs: list[Verb]) -> str:
    """For zsh's completion system."""
    listed = "\n".join(f"        {_single(f'{verb.name}:{verb.summary}')}" for verb in verbs)
    cases = "\n".join(
        f"        {verb.name})\n            _arguments -s -S \\\n"
        + " \\\n".join(f"                {line}" for line in (*(line for flag in verb.flags for line in _zsh_flag(flag)), *_zsh_arguments(verb)))
        + "\n            ;;"
        for verb in verbs
    )
    return f"""#compdef gotrace
# zsh completion for gotrace. Made by scripts/docs.

_gotrace() {{
    local context state state_descr line
    typeset -A opt_args
    local -a verbs
    verbs=(
{listed}
    )
    _arguments -C \\
        '(-V --version)'{{-V,--version}}'[show the version]' \\
        '(-h --help)'{{-h,--help}}'[show the help text]' \\
        '1:command:->verb' \\
        '*::argument:->argument'
    if [[ $state == verb ]]; then
        _describe command verbs
        return
    fi
    case $line[1] in
{cases}
    esac
}}

if [[ $funcstack[1] == _gotrace ]]; then
    _gotrace "$@"
else
    compdef _gotrace gotrace
fi
"""


def _zsh_flag(flag: Flag) -> list[str]:
    text = flag.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    action = f"({' '.join(flag.choices)})" if flag.choices else "_files" if flag.is_file else " "
    value = f":{(flag.value or 'value').lower()}:{action}" if flag.value or flag.choices else ""
    return [_single(f"*{name}[{text}]{value}") for name in flag.names]


def _zsh_arguments(verb: Verb) -> list[str]:
    if verb.takes_pid and verb.takes_file:
        return [_single("*:process or file:{_alternative 'pids:process:_pids' 'files:file:_files'}")]
    return [_single("*:process:_pids")] if verb.takes_pid else [_single("*:file:_files")] if verb.takes_file else []


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish(verbs: list[Verb]) -> str:
    """For fish's ``complete``."""
    lines = ["# fish completion for gotrace. Made by scripts/docs.", "", "complete -c gotrace -f"]
    lines += [
        "complete -c gotrace -n __fish_use_subcommand -s V -l version -d 'Show the version'",
        "complete -c gotrace -n __fish_use_subcommand -s h -l help -d 'Show the help text'",
    ]
    lines += [f"complete -c gotrace -n __fish_use_subcommand -a {verb.name} -d {_fish_single(verb.summary)}" for verb in verbs]
    for verb in verbs:
        here = f"complete -c gotrace -n '__fish_seen_subcommand_from {verb.name}'"
        lines.append("")
        for flag in verb.flags:
            short = "".join(f" -s {name[1:]}" for name in flag.names if not name.startswith("--"))
            takes = f" -x -a '{' '.join(flag.choices)}'" if flag.choices else " -r -F" if flag.is_file else " -x" if flag.value else ""
            lines.append(f"{here}{short} -l {flag.long[2:]}{takes} -d {_fish_single(flag.help)}")
        if verb.takes_pid:
            lines.append(f"{here} -a '(__fish_complete_pids)'")
        if verb.takes_file:
            lines.append(f"{here} -F")
    return "\n".join(lines) + "\n"


def _fish_single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

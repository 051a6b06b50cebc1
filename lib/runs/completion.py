"""Scripts with which a shell completes the jobs, their flags, and the words that a flag may have."""

from collections.abc import Mapping

from lib.config.base import Settings
from lib.runs.help import choices_of, flag_of, grouped
from lib.runtime.package import INSTALLED_NAME

SHELLS = ("bash", "zsh", "fish")
Jobs = Mapping[str, type[Settings]]

BASH = """\
_{name}() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{jobs}"
  else
    case "${{COMP_WORDS[1]}} $before" in
{choices}
      *) case "${{COMP_WORDS[1]}}" in
{flags}
      esac; case "$word" in -*) ;; *) words="" ;; esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _{name} {name}"""
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit"
"""zsh takes bash's functions after this."""


def completion_script(shell: str, jobs: Jobs) -> str:
    """What a shell is to source.

    Args:
        shell: One of `SHELLS`.
        jobs: The settings of each job.
    """
    if shell == "fish":
        return _fish(jobs)
    return _bash(jobs) if shell == "bash" else f"{ZSH}\n{_bash(jobs)}"


def _bash(jobs: Jobs) -> str:
    flags = [f'        {job}) words="{" ".join(_flags(kind))}" ;;' for job, kind in jobs.items()]
    choices = [
        f'      "{job} {flag_of(name)}") words="{" ".join(words)}" ;;'
        for job, kind in jobs.items()
        for name, words in _choices(kind).items()
    ]
    return BASH.format(name=INSTALLED_NAME, jobs=" ".join(jobs), flags="\n".join(flags), choices="\n".join(choices))


def _fish(jobs: Jobs) -> str:
    begin = f"complete -c {INSTALLED_NAME}"
    lines = [f"{begin} -n __fish_use_subcommand -f -a {job}" for job in jobs]
    for job, kind in jobs.items():
        words = _choices(kind)
        for name in _names(kind):
            known = f' -x -a "{" ".join(words[name])}"' if name in words else ""
            lines.append(f'{begin} -n "__fish_seen_subcommand_from {job}" -l {flag_of(name)[2:]}{known}')
    return "\n".join(lines)


def _names(kind: type[Settings]) -> list[str]:
    return [name for names in grouped(kind).values() for name in names]


def _flags(kind: type[Settings]) -> list[str]:
    switches = {name for name, field in kind.model_fields.items() if field.annotation is bool}
    negated = [f"--no-{flag_of(name)[2:]}" for name in _names(kind) if name in switches]
    return [*map(flag_of, _names(kind)), *negated, "--config", "--help"]


def _choices(kind: type[Settings]) -> dict[str, tuple[str, ...]]:
    words = {name: choices_of(field) for name, field in kind.model_fields.items()}
    return {name: some for name, some in words.items() if some}

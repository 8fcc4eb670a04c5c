# bash completion for gotrace. Made by scripts/docs.
# shellcheck shell=bash disable=SC2207

_gotrace() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} verb= word words=
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == -* ]] || { verb=$word && break; }
    done
    # --mode=lean is three words to bash.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case "$verb $previous" in
        "attach -d"|"attach --duration") return ;;
        "attach --events-over") return ;;
        "attach --exemplars") return ;;
        "attach --goroutine") return ;;
        "attach --hot-jitter") return ;;
        "attach --hot-p99") return ;;
        "attach --hot-share") return ;;
        "attach --label") return ;;
        "attach --match") return ;;
        "attach --max-overhead") return ;;
        "attach --min-block") return ;;
        "attach --mode") COMPREPLY=($(compgen -W "exact lean sample" -- "$current")); return ;;
        "attach -o"|"attach --output") compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
        "attach --probes") COMPREPLY=($(compgen -W "complete schedule gopark" -- "$current")); return ;;
        "attach --reason") return ;;
        "attach --band") return ;;
        "attach --slower-than") return ;;
        "attach --requests") COMPREPLY=($(compgen -W "auto off" -- "$current")); return ;;
        "attach --span") return ;;
        "attach --sample-period") return ;;
        "attach --sample-rate") return ;;
        "attach --state") COMPREPLY=($(compgen -W "waiting netpoll runnable runqueue syscall preempted" -- "$current")); return ;;
        "attach --syscalls") COMPREPLY=($(compgen -W "auto tracepoints uprobes none" -- "$current")); return ;;
        "attach --name") return ;;
        "attach --container") return ;;
        "attach --cgroup") return ;;
        "report --hot-jitter") return ;;
        "report --hot-p99") return ;;
        "report --hot-share") return ;;
        "report --ignore") return ;;
        "report --label") return ;;
        "report --match") return ;;
        "report -o"|"report --output") compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
        "report --reason") return ;;
        "report --band") return ;;
        "report --slower-than") return ;;
        "report --state") COMPREPLY=($(compgen -W "waiting netpoll runnable runqueue syscall preempted" -- "$current")); return ;;
        "report --top") return ;;
        "diff --ignore") return ;;
        "diff --match") return ;;
        "diff -o"|"diff --output") compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
        "diff --per") COMPREPLY=($(compgen -W "window goroutine" -- "$current")); return ;;
        "diff --reason") return ;;
        "diff --state") COMPREPLY=($(compgen -W "waiting netpoll runnable runqueue syscall preempted" -- "$current")); return ;;
        "diff --top") return ;;
        "dump --count") return ;;
        "dump --every") return ;;
        "dump --label") return ;;
        "dump --match") return ;;
        "dump -o"|"dump --output") compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
        "dump --reason") return ;;
        "dump --state") COMPREPLY=($(compgen -W "waiting netpoll runnable runqueue syscall preempted running no thread" -- "$current")); return ;;
        "dump --name") return ;;
        "dump --container") return ;;
        "dump --cgroup") return ;;
        "ps --sort") COMPREPLY=($(compgen -W "goroutines threads pid name version container quota" -- "$current")); return ;;
        "top -d"|"top --duration") return ;;
        "top --interval") return ;;
        "top --max-overhead") return ;;
        "top --rows") return ;;
        "top --window") COMPREPLY=($(compgen -W "start 10s fading" -- "$current")); return ;;
        "top --requests") COMPREPLY=($(compgen -W "auto off" -- "$current")); return ;;
        "top --span") return ;;
        "top --name") return ;;
        "top --container") return ;;
        "top --cgroup") return ;;
        "sched --count") return ;;
        "sched -d"|"sched --duration") return ;;
        "sched --every") return ;;
        "sched --max-overhead") return ;;
        "sched --name") return ;;
        "sched --container") return ;;
        "sched --cgroup") return ;;
        "serve --after") return ;;
        "serve --captures-per-hour") return ;;
        "serve --cooldown") return ;;
        "serve --dir") return ;;
        "serve --dir-bytes") return ;;
        "serve --exemplars") return ;;
        "serve --host-overhead") return ;;
        "serve --keep") return ;;
        "serve --keep-bytes") return ;;
        "serve --kill-file") return ;;
        "serve --listen") return ;;
        "serve --max-overhead") return ;;
        "serve --memory") return ;;
        "serve --push") return ;;
        "serve --push-basic") return ;;
        "serve --push-bearer") return ;;
        "serve --push-bytes") return ;;
        "serve --push-ca") return ;;
        "serve --push-every") return ;;
        "serve --push-tenant") return ;;
        "serve --tls-cert") compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
        "serve --tls-key") compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
        "serve --token-file") compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;
        "serve --trigger") return ;;
        "serve --band") return ;;
        "serve --slower-than") return ;;
        "serve --label") return ;;
        "serve --requests") COMPREPLY=($(compgen -W "auto off" -- "$current")); return ;;
        "serve --span") return ;;
        "serve --name") return ;;
        "serve --container") return ;;
        "serve --cgroup") return ;;
        "probes --probes") COMPREPLY=($(compgen -W "complete schedule gopark lean ready" -- "$current")); return ;;
        "probes --requests") COMPREPLY=($(compgen -W "auto off" -- "$current")); return ;;
        "probes --span") return ;;
        "probes --name") return ;;
        "probes --container") return ;;
        "probes --cgroup") return ;;
    esac
    case $verb in
        "") words="attach report diff dump ps top sched serve probes doctor -V --version -h --help" ;;
        attach) words="-d --duration --dry-run --events-over --exemplars -f --force --goroutine --hot-jitter --hot-p99 --hot-share --json --label --match --max-overhead --min-block --mode --no-kernel --no-labels --no-request-names --no-wakers --objects -o --output --per-goroutine --probes -q --quiet --reason --band --slower-than --requests --span --runtime --sample-period --sample-rate --state --syscalls --name --container --cgroup -v --verbose -h --help" ;;
        report) words="-f --force --hot-jitter --hot-p99 --hot-share --ignore --json --label --match -o --output --reason --band --slower-than --runtime --state --top --tree -h --help" ;;
        diff) words="--all -f --force --ignore --json --match -o --output --per --reason --state --top -h --help" ;;
        dump) words="--count --every -f --force --json --label --leaks --match --no-labels -o --output --reason --state --name --container --cgroup -h --help" ;;
        ps) words="--json --sort -h --help" ;;
        top) words="--batch -d --duration --idle --no-idle --interval --json --max-overhead --once --rows --window --requests --span --name --container --cgroup -h --help" ;;
        sched) words="--count -d --duration --every --json --latency --max-overhead --name --container --cgroup -h --help" ;;
        serve) words="--after --captures-per-hour --cooldown --dir --dir-bytes --exemplars --host-overhead --keep --keep-bytes --kill-file --listen --max-overhead --memory --push --push-basic --push-bearer --push-bytes --push-ca --push-every --push-tenant --rules --tls-cert --tls-key --token-file --trigger --band --slower-than --label --objects --requests --span --name --container --cgroup -h --help" ;;
        probes) words="--json --probes --requests --span --name --container --cgroup -h --help" ;;
        doctor) words="--json -h --help" ;;
    esac
    if [[ -z $verb || $current == -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi
    case $verb in
        attach) COMPREPLY+=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$current")); ;;
        report) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$current")); ;;
        diff) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$current")); ;;
        dump) COMPREPLY+=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$current")); ;;
        top) COMPREPLY+=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$current")); ;;
        sched) COMPREPLY+=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$current")); ;;
        serve) COMPREPLY+=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$current")); ;;
        probes) COMPREPLY+=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$current")); compopt -o filenames; COMPREPLY+=($(compgen -f -- "$current")); ;;
    esac
}

complete -F _gotrace gotrace

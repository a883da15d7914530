import { Argument, Command } from 'commander';

/** What is printed, by the shell that is to read it; `kubectl` is the program that kubectl's own completion asks. */
const scripts = {
  kubectl: `#!/bin/sh
# kubectl asks this for what comes after \`kubectl ovpn\`. Put it into a folder of PATH as kubectl_complete-ovpn.
exec kubectl-ovpn __complete "$@"
`,
  bash: `# bash completion of kubectl-ovpn: source <(kubectl-ovpn completion bash)
_kubectl_ovpn() {
  local answer line
  answer=$(kubectl-ovpn __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
      :0) compopt -o default 2>/dev/null ;;
      :*) ;;
      *) COMPREPLY+=("\${line%%$'\\t'*}") ;;
    esac
  done <<<"$answer"
}
complete -F _kubectl_ovpn kubectl-ovpn
`,
  zsh: `#compdef kubectl-ovpn
# zsh completion of kubectl-ovpn: source <(kubectl-ovpn completion zsh), or this file as _kubectl-ovpn in a folder of fpath
_kubectl_ovpn() {
  local line
  local -a found
  # What stands before the value of --name=value stays.
  local typed=("\${(@)words[2,CURRENT]}")
  [[ $PREFIX == -*=* ]] && compset -P 1 '*='
  while IFS= read -r line; do
    case $line in
      :0) _files; return ;;
      :*) ;;
      *) found+=("\${\${line//:/\\\\:}/$'\\t'/:}") ;;
    esac
  done < <(kubectl-ovpn __complete "$typed[@]" 2>/dev/null)
  _describe 'kubectl-ovpn' found
}
if [ "$funcstack[1]" = "_kubectl-ovpn" ]; then _kubectl_ovpn; else compdef _kubectl_ovpn kubectl-ovpn; fi
`,
  fish: `# fish completion of kubectl-ovpn: kubectl-ovpn completion fish | source
function __kubectl_ovpn
  set -l typed (commandline -ct)
  set -l words (commandline -opc) $typed
  # What stands before the value of --name=value stays.
  set -l flag (string match -r -- '^-[^=]*=' "$typed")
  for line in (kubectl-ovpn __complete $words[2..-1] 2>/dev/null)
    switch $line
      case ':0'
        # What fish offers for a program that it does not know: files.
        set line (complete -C "'' "(string escape -- (string replace -r -- '^-[^=]*=' '' "$typed")))
      case ':*'
        continue
    end
    printf '%s\n' "$flag"$line
  end
end
complete -c kubectl-ovpn -f -a '(__kubectl_ovpn)'
`,
} as const;

/** `kubectl ovpn completion`: the script for a shell. */
export function completionCommand(): Command {
  const shell = new Argument('<shell>', 'who is to complete; kubectl: after `kubectl ovpn` in any shell').choices(
    Object.keys(scripts),
  );
  return new Command('completion')
    .description('Print a completion script.')
    .addArgument(shell)
    .action((name: keyof typeof scripts) => {
      process.stdout.write(scripts[name]);
    });
}

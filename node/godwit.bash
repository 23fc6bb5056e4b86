# bash completion for godwit: commands, their options and the values these take as `godwit COMMAND
# --help` lists them, guests by name, files. Install as /usr/share/bash-completion/completions/godwit.

# Of the node that --node names, if it is there already.
_godwit_guests() {
  local i node=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [ "${COMP_WORDS[i]}" = --node ]; then node=(--node "${COMP_WORDS[i+1]}"); fi
  done
  "$1" list "${node[@]}" 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_godwit() {
  local godwit=$1 word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
  local command=${COMP_WORDS[1]} values
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    local commands
    commands=$("$godwit" --help 2>/dev/null | awk '/^Commands:/ { on = 1; next } on && NF == 0 { exit } on { print $1 }')
    mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$word")
    return
  fi
  case $before in
    --*)
      # The placeholder of an option's value: "auto|rdma|tcp" lists its values.
      values=$("$godwit" "$command" --help 2>/dev/null | awk -v flag="$before" '$1 == flag && $2 ~ /^[A-Za-z0-9|:.-]+$/ { print $2 }')
      case $values in
        *'|'*:PATH) mapfile -t COMPREPLY < <(compgen -W "${values//|/ }" -- "$word"); compopt -o nospace; return ;;
        *'|'*) mapfile -t COMPREPLY < <(compgen -W "${values//|/ }" -- "$word"); return ;;
      esac
      if [ "$before" = --cpu ]; then
        mapfile -t COMPREPLY < <(compgen -W "host x86-64-v2 x86-64-v3 x86-64-v4" -- "$word")
        return
      fi
      # A value that can be a file.
      if "$godwit" "$command" --help 2>/dev/null | awk -v flag="$before" '$1 == flag && $2 ~ /PATH|FILE|DIR|SOCKET/ { found = 1 } END { exit !found }'; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
      fi
      # A value of its own kind, or a switch, after which anything may come.
      if "$godwit" "$command" --help 2>/dev/null | awk -v flag="$before" '$1 == flag && $2 ~ /^[A-Z\[]/ { found = 1 } END { exit !found }'; then
        return
      fi
      ;;
  esac
  if [[ $word == -* ]]; then
    values=$("$godwit" "$command" --help 2>/dev/null | grep -oE '(^| )--[a-z][a-z-]*' | tr -d ' ' | sort -u)
    mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
    return
  fi
  case $command in
    migrate | cancel | status | pause | resume | balloon | stop | resolve | snapshot | upgrade)
      mapfile -t COMPREPLY < <(compgen -W "$(_godwit_guests "$godwit")" -- "$word")
      ;;
  esac
  case $command in
    mode) mapfile -t COMPREPLY < <(compgen -W "off advise automatic" -- "$word") ;;
    restore | snapshot)
      compopt -o filenames
      mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$word")
      ;;
  esac
}
complete -F _godwit godwit

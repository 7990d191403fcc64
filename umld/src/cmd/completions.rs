//! `umld completions`.

use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::failure::Result;

/// For bash: names of instances, asked for when they are needed.
const BASH_NAMES: &str = r#"
# Names of instances, added to what the command line itself offers.
_umld_with_names() {
    _umld "$@"
    case ${COMP_WORDS[1]} in
        start|stop|restart|kill|pause|resume|status|show|console|logs|exec|cp|mconsole|capture|clone|snapshot|restore|merge|export|rename|rm|events|explain)
            local cur=${COMP_WORDS[COMP_CWORD]}
            [[ $cur == -* ]] || COMPREPLY+=($(compgen -W "$(umld list -q 2>/dev/null)" -- "$cur"))
            ;;
    esac
}
complete -F _umld_with_names -o bashdefault -o default umld
"#;

/// Prints the script.
pub fn run(a: &Completions) -> Result<u8> {
    let mut bytes = Vec::new();
    clap_complete::generate(a.shell, &mut Cli::command(), "umld", &mut bytes);
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if a.shell == clap_complete::Shell::Bash {
        text += BASH_NAMES;
    }
    super::print(&text)
}

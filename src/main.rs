//! The `swr-sync` program; see [`swr_sync::cli`].

fn main() -> std::process::ExitCode {
    swr_sync::cli::main()
}

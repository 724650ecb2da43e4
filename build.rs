//! Makes a new migration file recompile the set embedded in the program.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}

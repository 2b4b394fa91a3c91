//! WASI: counts the lines of standard input, or of each file that is named.
//! `wasm-executor invoke lines.wasm --argv lines --argv /a.txt --file /a.txt=FILE`

use std::io::{BufRead, BufReader, Read};
use std::{env, fs::File, io, process};

fn count(source: impl Read, name: &str) -> io::Result<()> {
    let lines = BufReader::new(source).split(b'\n').count();
    println!("{lines} {name}");
    Ok(())
}

fn main() -> io::Result<()> {
    let names: Vec<String> = env::args().skip(1).collect();
    if names.is_empty() {
        return count(io::stdin(), "-");
    }
    for name in &names {
        let file = File::open(name).unwrap_or_else(|_| {
            eprintln!("{name}: no such file");
            process::exit(1)
        });
        count(file, name)?;
    }
    Ok(())
}

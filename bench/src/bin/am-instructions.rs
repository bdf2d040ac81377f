//! Instructions that a message costs at either end, by callgrind, against their targets: run by `bench/instructions`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynamo_am_bench::exact::main(dynamo_am_bench::exact::Counted::Instructions)
}

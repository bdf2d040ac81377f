//! Allocations that a message costs at either end, by an allocator that counts, against their targets: run by
//! `bench/allocations`.

use std::process::ExitCode;

use dynamo_am_alloc_count::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    dynamo_am_bench::exact::main(dynamo_am_bench::exact::Counted::Allocations)
}

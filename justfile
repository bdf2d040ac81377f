# The chores by short names. `just check` is what a change must pass, and changes no file.

# Lists the recipes.
default:
    @just --list

# Formatting, lints, documentation, tests, tidy, examples, costs per message. Read-only.
check:
    .ci/run

# Formats, and applies what clippy can mend by itself. Changes files.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    git ls-files '*.rs' ':!lib/am/examples' ':!lib/am/tests/ui' | xargs rustfmt --edition 2024

# All tests, the pure layers alone, tidy, examples.
test:
    cargo xtask test

# Instructions and allocations per message, against their targets.
costs:
    cargo xtask costs

# Advisories, licences, banned crates and sources of all dependencies. Needs cargo-deny.
deny:
    cargo deny check

# Several nodes on this machine, at work.
demo *arguments:
    cargo run --release --quiet -p dynamo-am-cli -- demo {{arguments}}

# Our figures beside those of raw sockets, in the same run. Use `just bench --quick` for 40 seconds of it.
bench *arguments:
    cargo run --release --quiet -p dynamo-am-cli -- bench {{arguments}}

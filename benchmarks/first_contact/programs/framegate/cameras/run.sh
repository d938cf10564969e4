framegate run --json

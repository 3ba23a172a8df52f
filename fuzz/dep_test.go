package fuzz_test

import (
	_ "eniagent/agent"
)

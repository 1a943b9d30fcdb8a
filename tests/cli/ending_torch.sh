#!/bin/sh
# Says that it is a PyTorch with as many parameters as the test says, and ends at the first question.
echo "{\"version\": \"0\", \"num_params\": $NUM_PARAMS}"
read -r _
echo "Error: no memory" >&2
echo >&2

#!/bin/sh
# Stands in for tigerjax where a target is tested: takes every config, and says that its mesh has $MESH devices (64).
echo "mesh.data = ${SLICES:-1}"
echo "mesh.fsdp = $((${MESH:-64} / ${SLICES:-1}))"
if [ -n "${LEAST_DATA:-}" ]; then echo "mesh.least_data = $LEAST_DATA"; fi
echo "optim.gradient_accumulation_steps = ${MICRO_BATCHES:-1}"

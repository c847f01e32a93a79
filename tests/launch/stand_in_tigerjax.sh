#!/bin/sh
# Stands in for tigerjax where a target is tested: takes every config, and says that its mesh has $MESH devices (64).
echo "mesh.data = ${SLICES:-1}"
echo "mesh.fsdp = $((${MESH:-64} / ${SLICES:-1}))"

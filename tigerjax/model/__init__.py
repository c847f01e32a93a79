"""What model families share (layers, attention, the stack of layers, the pipeline, the KV cache, the loss) and
`families`, through which every other room reaches a family."""

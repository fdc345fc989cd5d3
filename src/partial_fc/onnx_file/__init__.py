"""ONNX files of trained networks: converted from MXNet, put right, made smaller, compared with what they came from."""

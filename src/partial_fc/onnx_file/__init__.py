"""ONNX files of trained networks: converted from MXNet, put right, made smaller, and compared with what they came from."""

"""INT8 post-training quantization as explicit Q/DQ: calibrate once, place per target."""

"""What a trace and its model's weights say: functions that never run the model again as a whole."""

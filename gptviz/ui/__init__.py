"""What the pages share: a person's choices, loaded models and traces, and widgets. Streamlit lives here alone."""

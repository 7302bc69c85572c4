"""Code that the pages share: settings, loaded models, traces and widgets. Only this part of gptviz uses Streamlit."""

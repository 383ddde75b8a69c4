"""Where heads look: at what followed an earlier occurrence of what is being read now."""

"""What can be learnt from a trained model by looking inside. A folder a method; lab/analyse.py hands them subjects."""

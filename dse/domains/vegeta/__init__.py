"""VEGETA: matrix engines of a core that run N:M sparse tiles (Jeong et al., HPCA 2023)."""

"""SUSHI: SuperNets served from a SubGraph that stays on the chip (Tong et al., MLSys 2023)."""

"""Tables and plots of the records in results/; what is here measures nothing."""

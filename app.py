"""The explorer: `streamlit run app.py -- ATLAS`."""

from neurolab.explorer.main import main

main()
